"""Fixed numbers of each amino acid: the substitution matrix BLOSUM62 and physicochemical scales."""

import torch

RESIDUES = "ARNDCQEGHILKMFPSTWYV"  # the columns of BLOSUM62 and of PSI-BLAST's profiles
# Tokens of the stock `EsmTokenizer`, by id.
VOCABULARY = ["<cls>", "<pad>", "<eos>", "<unk>", *"LAGVSERTIDPNKQFYMHWCXBUZO.-", "<null_1>", "<mask>"]
# Letters that the tables lack are read as the mean of what they may be, or as what they are nearest to.
STANDS_FOR = {"U": "C", "O": "K", "B": "ND", "Z": "QE", "X": RESIDUES}

# fmt: off
# Henikoff and Henikoff 1992, in half bits: one row a residue, columns in the order of RESIDUES.
BLOSUM62 = {
    "A": [ 4, -1, -2, -2,  0, -1, -1,  0, -2, -1, -1, -1, -1, -2, -1,  1,  0, -3, -2,  0],
    "R": [-1,  5,  0, -2, -3,  1,  0, -2,  0, -3, -2,  2, -1, -3, -2, -1, -1, -3, -2, -3],
    "N": [-2,  0,  6,  1, -3,  0,  0,  0,  1, -3, -3,  0, -2, -3, -2,  1,  0, -4, -2, -3],
    "D": [-2, -2,  1,  6, -3,  0,  2, -1, -1, -3, -4, -1, -3, -3, -1,  0, -1, -4, -3, -3],
    "C": [ 0, -3, -3, -3,  9, -3, -4, -3, -3, -1, -1, -3, -1, -2, -3, -1, -1, -2, -2, -1],
    "Q": [-1,  1,  0,  0, -3,  5,  2, -2,  0, -3, -2,  1,  0, -3, -1,  0, -1, -2, -1, -2],
    "E": [-1,  0,  0,  2, -4,  2,  5, -2,  0, -3, -3,  1, -2, -3, -1,  0, -1, -3, -2, -2],
    "G": [ 0, -2,  0, -1, -3, -2, -2,  6, -2, -4, -4, -2, -3, -3, -2,  0, -2, -2, -3, -3],
    "H": [-2,  0,  1, -1, -3,  0,  0, -2,  8, -3, -3, -1, -2, -1, -2, -1, -2, -2,  2, -3],
    "I": [-1, -3, -3, -3, -1, -3, -3, -4, -3,  4,  2, -3,  1,  0, -3, -2, -1, -3, -1,  3],
    "L": [-1, -2, -3, -4, -1, -2, -3, -4, -3,  2,  4, -2,  2,  0, -3, -2, -1, -2, -1,  1],
    "K": [-1,  2,  0, -1, -3,  1,  1, -2, -1, -3, -2,  5, -1, -3, -1,  0, -1, -3, -2, -2],
    "M": [-1, -1, -2, -3, -1,  0, -2, -3, -2,  1,  2, -1,  5,  0, -2, -1, -1, -1, -1,  1],
    "F": [-2, -3, -3, -3, -2, -3, -3, -3, -1,  0,  0, -3,  0,  6, -4, -2, -2,  1,  3, -1],
    "P": [-1, -2, -2, -1, -3, -1, -1, -2, -2, -3, -3, -1, -2, -4,  7, -1, -1, -4, -3, -2],
    "S": [ 1, -1,  1,  0, -1,  0,  0,  0, -1, -2, -2,  0, -1, -2, -1,  4,  1, -3, -2, -2],
    "T": [ 0, -1,  0, -1, -1, -1, -1, -2, -2, -1, -1, -1, -1, -2, -1,  1,  5, -2, -2,  0],
    "W": [-3, -3, -4, -4, -2, -2, -3, -2, -2, -3, -2, -3, -1,  1, -4, -3, -2, 11,  2, -3],
    "Y": [-2, -2, -2, -3, -2, -1, -2, -3,  2, -1, -1, -2, -1,  3, -3, -2, -2,  2,  7, -1],
    "V": [ 0, -3, -3, -3, -1, -2, -2, -3, -3,  3,  1, -2,  1, -1, -2, -2,  0, -3, -1,  4],
}

# Scales by their AAindex accession (Kawashima et al. 2008), values in the order of RESIDUES.
SCALES = {
    # hydropathy, Kyte and Doolittle 1982
    "KYTJ820101": [1.8, -4.5, -3.5, -3.5, 2.5, -3.5, -3.5, -0.4, -3.2, 4.5,
                   3.8, -3.9, 1.9, 2.8, -1.6, -0.8, -0.7, -0.9, -1.3, 4.2],
    # hydrophilicity, Hopp and Woods 1981
    "HOPT810101": [-0.5, 3, 0.2, 3, -1, 0.2, 3, 0, -0.5, -1.8,
                   -1.8, 3, -1.3, -2.5, 0, 0.3, -0.4, -3.4, -2.3, -1.5],
    # polarity, Grantham 1974
    "GRAR740102": [8.1, 10.5, 11.6, 13, 5.5, 10.5, 12.3, 9, 10.4, 5.2,
                   4.9, 11.3, 5.7, 5.2, 8, 9.2, 8.6, 5.4, 6.2, 5.9],
    # volume, Grantham 1974
    "GRAR740103": [31, 124, 56, 54, 55, 85, 83, 3, 96, 111, 111, 119, 105, 132, 32.5, 32, 61, 170, 136, 84],
    # net charge, Klein et al. 1984
    "KLEP840101": [0, 1, 0, -1, 0, 0, -1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0],
    # isoelectric point, Zimmerman et al. 1968
    "ZIMJ680104": [6, 10.76, 5.41, 2.77, 5.05, 5.65, 3.22, 5.97, 7.59, 6.02,
                   5.98, 9.74, 5.74, 5.48, 6.3, 5.68, 5.66, 5.89, 5.66, 5.96],
    # frequency in helices, Chou and Fasman 1978
    "CHOP780201": [1.42, 0.98, 0.67, 1.01, 0.7, 1.11, 1.51, 0.57, 1, 1.08,
                   1.21, 1.16, 1.45, 1.13, 0.57, 0.77, 0.83, 1.08, 0.69, 1.06],
    # frequency in sheets, Chou and Fasman 1978
    "CHOP780202": [0.83, 0.93, 0.89, 0.54, 1.19, 1.1, 0.37, 0.75, 0.87, 1.6,
                   1.3, 0.74, 1.05, 1.38, 0.55, 0.75, 1.19, 1.37, 1.47, 1.7],
    # frequency in turns, Chou and Fasman 1978
    "CHOP780101": [0.66, 0.95, 1.56, 1.46, 1.19, 0.98, 0.74, 1.56, 0.95, 0.47,
                   0.59, 1.01, 0.6, 0.6, 1.52, 1.43, 0.96, 0.96, 1.14, 0.5],
    # flexibility, Bhaskaran and Ponnuswamy 1988
    "BHAR880101": [0.357, 0.529, 0.463, 0.511, 0.346, 0.493, 0.497, 0.544, 0.323, 0.462,
                   0.365, 0.466, 0.295, 0.314, 0.509, 0.507, 0.444, 0.305, 0.42, 0.386],
}
# fmt: on


def residue_table(name: str) -> torch.Tensor:
    """
    The numbers of every token.

    Args:
        name (`str`): `"blosum62"` (20 numbers, in bits) or `"physicochemical"` (10 AAindex scales, each standardized
            over the twenty amino acids).

    Returns:
        `torch.FloatTensor` of shape `(33, numbers)`: One row per token; zeros for tokens that are not residues.
    """
    if name == "blosum62":
        rows = torch.tensor([BLOSUM62[residue] for residue in RESIDUES]) / 2  # (20, 20)
    else:
        scales = torch.tensor(list(SCALES.values())).T  # (20, 10)
        rows = (scales - scales.mean(dim=0)) / scales.std(dim=0, correction=0)
    table = torch.zeros(len(VOCABULARY), rows.shape[1])
    for token, letter in enumerate(VOCABULARY):
        if letter in RESIDUES or letter in STANDS_FOR:
            table[token] = rows[[RESIDUES.index(residue) for residue in STANDS_FOR.get(letter, letter)]].mean(dim=0)
    return table

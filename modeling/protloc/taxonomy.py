"""Label sets and their order."""

from .models.configuration_deeploc import COMPARTMENTS, SORTING_SIGNALS, SORTING_TREE

# Labels of DeepLoc 1.0 that stand for two compartments at once.
COMBINED_LABELS = {"Cytoplasm-Nucleus": ["Cytoplasm", "Nucleus"]}

# Gene Ontology, and UniProt's controlled vocabulary of subcellular locations. Yeast and plants have a vacuole where
# animals have lysosomes: the label's GO term is the one that both are below.
IDENTIFIERS = {
    "Cytoplasm": ("GO:0005737", "SL-0086"),
    "Nucleus": ("GO:0005634", "SL-0191"),
    "Extracellular": ("GO:0005576", "SL-0243"),
    "Cell membrane": ("GO:0005886", "SL-0039"),
    "Mitochondrion": ("GO:0005739", "SL-0173"),
    "Plastid": ("GO:0009536", "SL-0209"),
    "Endoplasmic reticulum": ("GO:0005783", "SL-0095"),
    "Lysosome/Vacuole": ("GO:0005773", "SL-0272"),
    "Golgi apparatus": ("GO:0005794", "SL-0132"),
    "Peroxisome": ("GO:0005777", "SL-0204"),
}
# Sequence Ontology's terms for the segments of sorting signals
SEQUENCE_ONTOLOGY = {
    "SP": "signal_peptide",
    "TM": "transmembrane_polypeptide_region",
    "MT": "transit_peptide",
    "CH": "transit_peptide",
    "TH": "transit_peptide",
    "NLS": "nuclear_localization_signal",
    "NES": "nuclear_export_signal",
    "PTS": "peptide_localization_signal",
    "GPI": "peptide_localization_signal",
}

KINGDOMS = ["Metazoa", "Fungi", "Viridiplantae", "Other"]
MEMBRANE = ["soluble", "membrane"]

# OpenCell's manual annotation, from the most to the least frequent as a single localization
OPENCELL_CATEGORIES = [
    "cytoplasmic",
    "vesicles",
    "nucleoplasm",
    "er",
    "nucleolus_gc",
    "chromatin",
    "membrane",
    "golgi",
    "nuclear_punctae",
    "centrosome",
    "nuclear_membrane",
    "nucleolus_fc_dfc",
    "cytoskeleton",
    "mitochondria",
    "big_aggregates",
    "focal_adhesions",
    "cell_contact",
]

# Locations of the Human Protein Atlas (`subcellular_location.tsv`) and of its image challenges
HPA_LOCATIONS = [
    "Nucleoplasm",
    "Cytosol",
    "Vesicles",
    "Plasma membrane",
    "Mitochondria",
    "Golgi apparatus",
    "Nucleoli",
    "Nuclear bodies",
    "Nuclear speckles",
    "Endoplasmic reticulum",
    "Centrosome",
    "Cell Junctions",
    "Nucleoli fibrillar center",
    "Nuclear membrane",
    "Microtubules",
    "Actin filaments",
    "Intermediate filaments",
    "Centriolar satellite",
    "Nucleoli rim",
    "Cytokinetic bridge",
    "Focal adhesion sites",
    "Mitotic spindle",
    "Cytoplasmic bodies",
    "Mitotic chromosome",
    "Midbody",
    "Lipid droplets",
    "Midbody ring",
    "Peroxisomes",
    "Aggresome",
    "Rods & Rings",
    "Lysosomes",
    "Endosomes",
    "Microtubule ends",
    "Kinetochore",
    "Cleavage furrow",
    "Vesicles and punctate cytosolic patterns",
    "Negative",
    "Microtubule organizing center",
]
# Other spellings of them in the atlas's tables
HPA_SPELLINGS = {"Cell junctions": "Cell Junctions", "Rods & rings": "Rods & Rings", "No staining": "Negative"}

# Numbers of the labels of the Kaggle challenge "Human Protein Atlas Image Classification" (2018)
KAGGLE_2018_LOCATIONS = [
    "Nucleoplasm",
    "Nuclear membrane",
    "Nucleoli",
    "Nucleoli fibrillar center",
    "Nuclear speckles",
    "Nuclear bodies",
    "Endoplasmic reticulum",
    "Golgi apparatus",
    "Peroxisomes",
    "Endosomes",
    "Lysosomes",
    "Intermediate filaments",
    "Actin filaments",
    "Focal adhesion sites",
    "Microtubules",
    "Microtubule ends",
    "Cytokinetic bridge",
    "Mitotic spindle",
    "Microtubule organizing center",
    "Centrosome",
    "Lipid droplets",
    "Plasma membrane",
    "Cell Junctions",
    "Mitochondria",
    "Aggresome",
    "Cytosol",
    "Cytoplasmic bodies",
    "Rods & Rings",
]

# Numbers of the labels of the Kaggle challenge "Human Protein Atlas - Single Cell Classification" (2021)
KAGGLE_LOCATIONS = [
    "Nucleoplasm",
    "Nuclear membrane",
    "Nucleoli",
    "Nucleoli fibrillar center",
    "Nuclear speckles",
    "Nuclear bodies",
    "Endoplasmic reticulum",
    "Golgi apparatus",
    "Intermediate filaments",
    "Actin filaments",
    "Microtubules",
    "Mitotic spindle",
    "Centrosome",
    "Plasma membrane",
    "Mitochondria",
    "Aggresome",
    "Cytosol",
    "Vesicles and punctate cytosolic patterns",
    "Negative",
]

# Classes of the shipped deepGPS. The first two are those of deepGPS-single-2, the first four those of single-4.
IMAGE_CLASSES = [
    "cytoplasm",
    "nucleoplasm",
    "vesicles",
    "ER",
    "plasma membrane",
    "mitochondria",
    "nucleoli",
    "Golgi",
]
# The names that OpenCell, HPA and DeepLoc have for them; a name that is missing here belongs to no class. OpenCell's
# chromatin and nuclear punctae stand with the nucleoplasm because DeepLoc's "Nucleus" holds them all.
IMAGE_CLASS_OF = {
    "cytoplasmic": "cytoplasm",
    "Cytosol": "cytoplasm",
    "Cytoplasm": "cytoplasm",
    "nucleoplasm": "nucleoplasm",
    "chromatin": "nucleoplasm",
    "nuclear_punctae": "nucleoplasm",
    "Nucleoplasm": "nucleoplasm",
    "Nucleus": "nucleoplasm",
    "vesicles": "vesicles",
    "Vesicles": "vesicles",
    "Lysosomes": "vesicles",
    "Endosomes": "vesicles",
    "Peroxisomes": "vesicles",
    "Lysosome/Vacuole": "vesicles",
    "er": "ER",
    "Endoplasmic reticulum": "ER",
    "membrane": "plasma membrane",
    "Plasma membrane": "plasma membrane",
    "Cell membrane": "plasma membrane",
    "mitochondria": "mitochondria",
    "Mitochondria": "mitochondria",
    "Mitochondrion": "mitochondria",
    "nucleolus_gc": "nucleoli",
    "nucleolus_fc_dfc": "nucleoli",
    "Nucleoli": "nucleoli",
    "Nucleoli fibrillar center": "nucleoli",
    "golgi": "Golgi",
    "Golgi apparatus": "Golgi",
}


def image_class(labels: list[str]) -> str | None:
    """The one class that all labels of a protein or image belong to; `None` if they are of several, or of none."""
    classes = {IMAGE_CLASS_OF.get(label) for label in labels}
    return classes.pop() if len(classes) == 1 else None


__all__ = [
    "COMBINED_LABELS",
    "COMPARTMENTS",
    "HPA_LOCATIONS",
    "HPA_SPELLINGS",
    "IDENTIFIERS",
    "IMAGE_CLASSES",
    "IMAGE_CLASS_OF",
    "KAGGLE_2018_LOCATIONS",
    "KAGGLE_LOCATIONS",
    "KINGDOMS",
    "MEMBRANE",
    "OPENCELL_CATEGORIES",
    "SEQUENCE_ONTOLOGY",
    "SORTING_SIGNALS",
    "SORTING_TREE",
    "image_class",
]

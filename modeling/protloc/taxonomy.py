"""Label sets and their order."""

from .models.configuration_deeploc import COMPARTMENTS, SORTING_SIGNALS, SORTING_TREE

# Labels of DeepLoc 1.0 that stand for two compartments at once.
COMBINED_LABELS = {"Cytoplasm-Nucleus": ["Cytoplasm", "Nucleus"]}

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

__all__ = [
    "COMBINED_LABELS",
    "COMPARTMENTS",
    "HPA_LOCATIONS",
    "KAGGLE_LOCATIONS",
    "KINGDOMS",
    "MEMBRANE",
    "OPENCELL_CATEGORIES",
    "SORTING_SIGNALS",
    "SORTING_TREE",
]

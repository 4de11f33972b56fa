"""Label sets and their order."""

from .models.configuration_deeploc import COMPARTMENTS, SORTING_SIGNALS, SORTING_TREE

# Labels of DeepLoc 1.0 that stand for two compartments at once.
COMBINED_LABELS = {"Cytoplasm-Nucleus": ["Cytoplasm", "Nucleus"]}

KINGDOMS = ["Metazoa", "Fungi", "Viridiplantae", "Other"]
MEMBRANE = ["soluble", "membrane"]

__all__ = ["COMBINED_LABELS", "COMPARTMENTS", "KINGDOMS", "MEMBRANE", "SORTING_SIGNALS", "SORTING_TREE"]

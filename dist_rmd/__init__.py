"""dist_rmd: distributed training of image classifiers on wrongly labelled data (RMDNet, MODUL)."""

__version__ = "0.1.0"

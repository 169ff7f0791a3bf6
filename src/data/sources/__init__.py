"""The data sources of the option `data=`. `formats/` holds the readers and writers of files."""

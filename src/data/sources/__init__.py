"""What the option `data=` builds. How a file is read and written is in `formats/`."""

"""Declarations: what is compressed, and what varies. One file is one space; its name is the file's."""

"""The folder of one run: what it holds, how it is read and written, and what names it."""

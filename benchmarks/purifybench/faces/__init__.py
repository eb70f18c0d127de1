"""Cartoon faces of known truth: `composition` says what a face is made of, `rendering` draws it, `sets` makes data sets.

The art is that of DiceBear's styles, see `art_styles.json`.
"""

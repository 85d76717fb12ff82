"""Which parts of a slide are analysed: annotations, tissue, and the tiles over them."""

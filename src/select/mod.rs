//! Patch selectors (paper 3.1): which patches of a slide carry texture.

//! The slide-level methods, one file each; a file may hold several of one kind.
//!
//! A file holds, in this order: what it computes and where that comes from, its keys with their presets, what it is called,
//! the network.

use super::method::MethodSpec;

macro_rules! methods {
    ($($file:ident: $($spec:ident),*;)*) => {
        $(pub mod $file;)*
        /// The list of methods, the default first.
        pub static METHODS: &[&MethodSpec] = &[$($(&$file::$spec),*),*];
    };
}

// Adding a method is its file and its line here.
methods! {
    isg: SPEC;
    he2rna: SPEC;
    vit: SMALL, BASE;
    vit_mb: SPEC;
    cyclemlp: SPEC;
    mpvit: SPEC;
    image_vit: SPEC;
    abmil: SPEC;
    sequoia: SPEC;
    mean_mlp: SPEC;
    tile_vote: SPEC;
    ridge: SPEC;
    colour: SPEC;
    mean: SPEC;
}

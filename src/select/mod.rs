//! Patch selectors (paper 3.1): which patches of a slide carry texture.
//!
//! A [`Selector`] gives one image one number, higher for more texture. The paper's choice, and the default, is the length of
//! a compressed form of the patch ([`Codec`], see [`shannon`]); the others are those it is compared with (paper 4.2). [`threshold`]
//! turns numbers into marks, [`score`] does it for all patches of a slide, [`choice`] for all slides of a run.
//!
//! | selector | score | semantics after | agreement measured |
//! |---|---|---|---|
//! | [`shannon`] | bits per pixel of a compressed form | | |
//! | [`otsu`] | share of tissue | scikit-image `threshold_otsu` | 105 thresholds and masks equal |
//! | [`gradient`] | mean Sobel gradient | scikit-image `sobel` | mean within 2e-5 grey levels a pixel |
//! | [`canny`] | share of edge pixels | OpenCV `Canny` | 259 maps equal: L1 and L2, apertures 3, 5, 7 |
//! | [`dog`] | energy of the difference of Gaussians | scipy `gaussian_filter` | every pixel within 8e-5 grey levels, energy within 5e-5 |
//! | [`log`] | energy of the Laplacian of Gaussian | scipy `gaussian_laplace` | every pixel within 2e-5 grey levels, energy within 5e-5 |
//! | [`dexined`] | mean edge probability | the authors' PyTorch model | every probability within 4e-6 of PyTorch's f64 |
//! | [`table`] | what a file says of the patch | | |
//!
//! Agreement is from `tools/peers/selector_peers.py` on 105 real tiles of 256 px and odd sizes (OpenCV 5.0, scikit-image 0.26, scipy
//! 1.17), DexiNed's from `tools/peers/dexined_peer.py` at random weights. Speed on one core, MB/s of RGB in 1024 px patches, and the
//! peer's in the same minute: otsu 2660 (scikit-image 1170), gradient 950 (OpenCV 1290), canny 310 (OpenCV 270), dog 945
//! (scipy 57), log 750 (scipy 39); `cargo bench --bench selectors`.

pub mod choice;
pub mod gaussian;
pub mod glass;
pub mod grey;
pub mod grid;
pub mod jpeg;
pub mod kernels;
pub mod order0;
pub mod places;
pub mod prefilter;
pub mod regions;
pub mod response;
pub mod score;
pub mod score_map;
pub mod selector;
pub mod threshold;

macro_rules! selectors {
    ($($stem:ident),* $(,)?) => {
        $(pub mod $stem;)*
        /// The list of selectors, the default first.
        pub static SELECTORS: &[&SelectorSpec] = &[$(&$stem::SPEC),*];
    };
}

// Adding a selector is its file and its word here.
selectors! {
    shannon,
    otsu,
    gradient,
    canny,
    dog,
    log,
    dexined,
    table,
}

pub use choice::{Choice, FittedChoice, Scope};
pub use grid::PatchGrid;
pub use places::{PatchList, SlideFrame};
pub use regions::Regions;
pub use score::{PatchScore, ScoreOptions, SlideScores, score_slide};
pub use selector::{Score, Scorer, Selector, SelectorSpec, Selectors};
pub use shannon::Codec;
pub use threshold::Threshold;

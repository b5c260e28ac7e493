//! Patch selectors (paper 3.1): which patches of a slide carry texture.
//!
//! A [`Selector`] gives one image one number, higher for more texture. The paper's choice, and the default, is the length of
//! a compressed form of the patch ([`Codec`], see [`shannon`]); the others are those it is compared with (paper 4.2). [`threshold`]
//! turns numbers into a choice, [`score`] does it for all patches of a slide.
//!
//! | selector | score | semantics after | agreement, `tools/peers/selector_peers.py` |
//! |---|---|---|---|
//! | [`shannon`] | bits per pixel of a compressed form | | |
//! | [`otsu`] | share of tissue | scikit-image `threshold_otsu` | thresholds equal |
//! | [`gradient`] | mean Sobel gradient | scikit-image `sobel` | AGREEMENT_GRADIENT |
//! | [`canny`] | share of edge pixels | OpenCV `Canny` | maps equal, L1 and L2, apertures 3, 5, 7 |
//! | [`dog`](gaussian) | energy of the difference of Gaussians | scipy `gaussian_filter` | AGREEMENT_DOG |
//! | [`log`](gaussian) | energy of the Laplacian of Gaussian | scipy `gaussian_laplace` | AGREEMENT_LOG |
//! | [`dexined`] | mean edge probability | the authors' PyTorch model | AGREEMENT_DEXINED |

pub mod canny;
pub mod dexined;
pub mod gaussian;
pub mod gradient;
pub mod grey;
pub mod jpeg;
pub mod order0;
pub mod otsu;
pub mod score;
pub mod score_map;
pub mod selector;
pub mod shannon;
pub mod threshold;

pub use score::{PatchScore, ScoreOptions, SlideScores, score_slide};
pub use selector::{Scorer, Selector};
pub use threshold::Threshold;

use crate::{
    error::{Error, Result},
    image::RgbImage,
};

/// What the bits of a patch are counted with.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Codec {
    /// The project's lossless stream ([`shannon`]): a proven upper bound of the patch's description length.
    #[default]
    Lz,
    /// Entropy of predicted residuals ([`order0`]).
    Order0,
    /// Size of a baseline JPEG, 4:2:0 ([`jpeg`]).
    Jpeg { quality: u8 },
}

impl Codec {
    /// By name; `quality` (1 to 100) is for `jpeg` alone.
    ///
    /// # Errors
    /// Another name, or a quality that JPEG does not have.
    pub fn named(name: &str, quality: u8) -> Result<Codec> {
        match name {
            "lz" => Ok(Codec::Lz),
            "order0" => Ok(Codec::Order0),
            "jpeg" if (1..=100).contains(&quality) => Ok(Codec::Jpeg { quality }),
            "jpeg" => Err(Error::Usage(format!("JPEG has no quality {quality}; give 1 to 100"))),
            _ => Err(Error::Usage(format!("there is no codec `{name}`; choose lz, order0 or jpeg"))),
        }
    }

    /// Bits of an image. Single-threaded: patches, not parts of them, are spread over cores.
    pub fn bits(self, image: &RgbImage) -> u64 {
        match self {
            Codec::Lz => shannon::bits(image),
            Codec::Order0 => order0::bits(image),
            Codec::Jpeg { quality } => jpeg::bits(image, quality),
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Codec::Lz => "lz",
            Codec::Order0 => "order0",
            Codec::Jpeg { .. } => "jpeg",
        }
    }
}

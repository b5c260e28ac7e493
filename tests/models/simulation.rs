//! Bags whose targets are known: per slide a density of cells (local), a fraction of glands (global), their product, and
//! a gene that follows nothing. Features mix them with nuisances non-linearly, a slide's stain shifts them all.

use isg::{
    Result,
    cohort::splits::{SplitConfig, SplitPatient, Splits},
    image::RgbImage,
    io::checksum::Digest,
    mil::{
        bags::{Bag, BagSet, Origin},
        features::{FeatureDims, HostFeatures, PatchFeatures, PatchValues, Reads},
    },
    random::Philox,
};

pub const GENES: [&str; 4] = ["LOCAL", "GLOBAL", "BOTH", "NULL"];

/// Features whose slide is of one colour.
struct Simulated {
    features: HostFeatures,
    colour: [u8; 3],
}

impl PatchFeatures for Simulated {
    fn patches(&self) -> usize {
        self.features.patches()
    }

    fn read(&self, patches: &[usize], reads: Reads, to: &mut PatchValues) -> Result<()> {
        self.features.read(patches, reads, to)
    }

    fn image(&self, side_px: usize) -> Result<RgbImage> {
        Ok(RgbImage::filled(side_px, side_px, self.colour))
    }

    fn pixels(&self, patches: &[usize]) -> Result<Vec<RgbImage>> {
        // Patches of one colour, a little darker one after the other.
        let patch = |&i: &usize| RgbImage::filled(8, 8, self.colour.map(|v| v.saturating_sub(i as u8)));
        Ok(patches.iter().map(patch).collect())
    }
}

/// How cells, patches and slides vary, apart from what the genes follow.
const NUISANCES: usize = 6;

pub fn bags(slides: usize, width: usize, grid: usize, seed: u64) -> BagSet {
    let mix = |name: &str| Philox::named(seed, name).normals(width * (2 + NUISANCES));
    let (global_mix, local_mix) = (mix("global mix"), mix("local mix"));
    let (mut bags, mut targets) = (Vec::new(), Vec::new());
    for slide in 0..slides {
        let mut at = 0;
        let random = Philox::named(seed, &format!("slide {slide}"));
        let mut normal = || {
            at += 1;
            random.normal4(at)[0]
        };
        let (density, glands) = (uniform(normal()), uniform(normal()));
        let stain: Vec<f64> = (0..width).map(|_| 0.5 * normal()).collect();
        let patches = 20 + (20.0 * uniform(normal())) as usize;
        let (mut globals, mut locals) = (Vec::new(), Vec::new());
        for _ in 0..patches {
            let context: Vec<f64> = (0..NUISANCES).map(|_| normal()).collect();
            let gland_here = 1.0 / (1.0 + (-4.0 * (glands - 0.5) - 1.5 * normal()).exp());
            let mut sums = [0.0; 2];
            for _ in 0..grid * grid {
                let cell = [density * (0.7 * normal()).exp(), f64::from(u8::from(uniform(normal()) < gland_here))];
                sums = [sums[0] + cell[0], sums[1] + cell[1]];
                let nuisance: Vec<f64> = context.iter().map(|c| 0.7 * c + 0.7 * normal()).collect();
                feature(&local_mix, cell, &nuisance, &stain, &mut normal, &mut locals);
            }
            let mean = sums.map(|s| s / (grid * grid) as f64);
            feature(&global_mix, mean, &context, &stain, &mut normal, &mut globals);
        }
        let noise = |n: f64| (0.15 * n).exp();
        let linear = [
            40.0 * density * noise(normal()),
            60.0 * glands * noise(normal()),
            150.0 * density * glands * noise(normal()),
            30.0 * (0.8 * normal()).exp(),
        ];
        targets.push(linear.iter().map(|x| (1.0 + x).log10()).collect());
        let name = format!("S{slide:03}");
        let digest = Digest::of("features", &(&globals, &locals));
        // Patches in rows of five.
        let coords = (0..patches).map(|p| [(p % 5) as f64, (p / 5) as f64]).collect();
        let values = PatchValues { global: globals, cube: locals, coords };
        let colour = [density, glands, 0.5].map(|v| (v * 255.0) as u8);
        let features = Box::new(Simulated { features: HostFeatures { patches, values }, colour });
        bags.push(Bag { slide: name.clone(), patient: name, project: "SIM".into(), digest, features });
    }
    let dims = FeatureDims { global: width, cell: width, grid };
    BagSet { dims, genes: GENES.map(String::from).to_vec(), origin: Origin::default(), bags, targets, whole: false }
}

fn uniform(normal: f64) -> f64 {
    // A squashed normal: spread over 0..1, few values at the ends.
    1.0 / (1.0 + (-1.3 * normal).exp())
}

fn feature(
    mix: &[f64],
    cell: [f64; 2],
    nuisance: &[f64],
    stain: &[f64],
    normal: &mut impl FnMut() -> f64,
    out: &mut Vec<f32>,
) {
    let inputs: Vec<f64> = [1.2 * cell[0], 1.2 * cell[1]].iter().chain(nuisance).copied().collect();
    for (row, shift) in mix.chunks(inputs.len()).zip(stain) {
        let sum: f64 = row.iter().zip(&inputs).map(|(w, x)| w * x).sum();
        out.push(((0.5 * sum + shift).tanh() + 0.2 * normal()) as f32);
    }
}

pub fn splits(set: &BagSet, folds: usize, seed: u64) -> Splits {
    let patients: Vec<SplitPatient> = set
        .bags
        .iter()
        .map(|b| SplitPatient { id: b.patient.clone(), site: None, project: None, label: None })
        .collect();
    Splits::draw(&patients, &SplitConfig { folds, seed, ..SplitConfig::default() }).expect("enough patients")
}

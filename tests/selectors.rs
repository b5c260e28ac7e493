//! Selectors: equal to the libraries whose semantics they follow, at home with images of any size, and one command for all.

use std::{path::Path, process::Command, sync::Arc};

use isg::{
    Device,
    image::RgbImage,
    io::safetensors::SafetensorsFile,
    progress::Silent,
    select::{
        SELECTORS, ScoreOptions, Scorer, Selector, Selectors, Threshold,
        canny::{self, Canny},
        dog::Dog,
        gradient,
        grey::GreyImage,
        log::Log,
        otsu::{self, Otsu, OtsuOver},
        score_slide,
    },
    slide::Slide,
};
use proptest::prelude::*;

/// Images and what other libraries make of them, by `tests/selectors/make.py`.
struct Peers(SafetensorsFile);

impl Peers {
    fn open() -> Peers {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/selectors/peers.safetensors");
        Peers(SafetensorsFile::open(path).unwrap())
    }

    fn images(&self) -> Vec<(String, RgbImage)> {
        let names = self.0.names().iter().filter_map(|name| name.strip_suffix(".rgb"));
        let image = |name: &str| {
            let array = self.0.get(&format!("{name}.rgb")).unwrap();
            let [height_px, width_px, 3] = *array.shape else { panic!("{name}: {:?}", array.shape) };
            RgbImage { width_px, height_px, pixels: array.bytes.to_vec() }
        };
        let images: Vec<_> = names.map(|name| (name.to_string(), image(name))).collect();
        assert!(images.len() >= 10);
        images
    }

    fn numbers(&self, name: &str) -> Vec<f32> {
        self.0.get(name).unwrap().to_f32()
    }

    fn number(&self, name: &str) -> f64 {
        let bytes = self.0.get(name).unwrap().bytes.to_vec();
        f64::from_le_bytes(bytes.try_into().unwrap())
    }
}

#[test]
fn grey_and_otsu_thresholds_are_scikit_images() {
    let peers = Peers::open();
    for (name, image) in peers.images() {
        let grey = GreyImage::of(&image);
        assert_eq!(grey.values, peers.0.get(&format!("{name}.grey")).unwrap().bytes, "{name}: grey");
        let wanted = peers.0.get(&format!("{name}.otsu")).unwrap().bytes[0];
        assert_eq!(otsu::threshold(&grey), wanted, "{name}: threshold");
    }
}

#[test]
fn canny_maps_are_opencvs() {
    let peers = Peers::open();
    let mut compared = 0;
    for (name, image) in peers.images() {
        let grey = GreyImage::of(&image);
        let prefix = format!("{name}.canny.");
        for key in peers.0.names().iter().filter(|key| key.starts_with(&prefix)) {
            let numbers: Vec<f64> = key[prefix.len()..].split('.').map(|n| n.parse().unwrap()).collect();
            let [low, high, aperture, l2] = numbers[..] else { panic!("{key}") };
            let canny = Canny { low, high, aperture: aperture as usize, l2: l2 == 1.0 };
            let edges = canny::edges(&grey, &canny);
            let packed = peers.0.get(key).unwrap().bytes;
            for (i, value) in edges.values.iter().enumerate() {
                let wanted = packed[i / 8] >> (7 - i % 8) & 1 == 1;
                assert_eq!(*value == 255, wanted, "{key}: pixel {} {}", i % grey.width_px, i / grey.width_px);
            }
            let share = edges.values.iter().filter(|v| **v > 0).count() as f64 / edges.values.len() as f64;
            assert_eq!(canny::score(&grey, &canny), share);
            compared += 1;
        }
    }
    assert_eq!(compared, 50);
}

#[test]
fn gradient_dog_and_log_are_scipys() {
    let peers = Peers::open();
    let (dog, log) = (Dog::default().filter().unwrap(), Log::default().filter().unwrap());
    for (name, image) in peers.images() {
        let grey = GreyImage::of(&image);
        let wanted = peers.number(&format!("{name}.gradient"));
        assert!((gradient::score(&grey) - wanted).abs() < 2.0 * gradient::STEP_LEVELS, "{name}: gradient {wanted}");
        for (which, filter) in [("dog", &dog), ("log", &log)] {
            let wanted = peers.numbers(&format!("{name}.{which}"));
            for (found, wanted) in filter.response(&grey).iter().zip(&wanted) {
                assert!((found - wanted).abs() < 1e-4, "{name}: {which} {found} {wanted}");
            }
            let energy = peers.number(&format!("{name}.{which}.energy"));
            let found = filter.energy(&grey);
            // What errors of 5e-5 in every pixel do to a mean square.
            let tolerance = 1e-4 * energy.sqrt() + 3e-9;
            assert!((found - energy).abs() <= tolerance, "{name}: {which} energy {found} {energy}");
        }
    }
}

/// Scores on the emulator, which runs the GPU's kernels, are the CPU's: integers exactly, energies within rounding.
#[test]
fn a_gpu_gives_the_same_scores() {
    let device = Device::named("emulator").unwrap();
    for (name, image) in
        Peers::open().images().into_iter().filter(|(name, _)| ["discs", "row", "one", "white"].contains(&name.as_str()))
    {
        for host in scorers() {
            let scorer = Scorer::new(host.selector(), &device).unwrap();
            for tissue in [None, Some(180)] {
                let (wanted, found) = (host.measure(&image, tissue).unwrap(), scorer.measure(&image, tissue).unwrap());
                // Energies are sums of floats, everything else of integers.
                let energy = scorer.selector().unit() == "squared grey levels";
                let tolerance = if energy { 1e-4 * wanted.sqrt() + 1e-8 } else { 0.0 };
                let which = scorer.selector().name();
                assert!((wanted - found).abs() <= tolerance, "{name} {which}: {found} instead of {wanted}");
            }
        }
    }
    // A filter too wide for the kernels is still scored.
    let wide: Arc<dyn Selector> = Arc::new(Log { sigma_px: 9.0 });
    let image = RgbImage::filled(9, 9, [7; 3]);
    let score = |device| Scorer::new(&wide, device).unwrap().measure(&image, None).unwrap();
    assert_eq!(score(&device), score(&Device::cpu()));
}

/// All selectors that need no file, with their defaults.
fn scorers() -> Vec<Scorer> {
    let selectors = Selectors::default();
    let complete = selectors.all().filter(|selector| selector.is_complete());
    complete.map(|selector| Scorer::new(selector, &Device::cpu()).unwrap()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Any size, any content: finite scores that are not negative, a response for every pixel, the same for the same pixels.
    #[test]
    fn every_image_has_a_score(width_px in 1usize..70, height_px in 1usize..40, seed: u64, range in 1u64..257) {
        let mut state = seed;
        let mut byte = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            ((state >> 40) % range) as u8
        };
        let pixels = (0..width_px * height_px * 3).map(|_| byte()).collect();
        let image = RgbImage { width_px, height_px, pixels };
        for scorer in scorers() {
            let name = scorer.selector().name();
            let score = scorer.measure(&image, None).unwrap();
            prop_assert!(score.is_finite() && score >= 0.0, "{name}: {score}");
            prop_assert_eq!(score, scorer.measure(&image, None).unwrap());
            let response = scorer.response(&image, None).unwrap();
            prop_assert_eq!(response.values.len(), width_px * height_px);
            prop_assert!(response.values.iter().all(|v| v.is_finite() && *v >= 0.0), "{}", name);
            if matches!(name, "otsu" | "canny") {
                let mean = response.values.iter().map(|&v| f64::from(v)).sum::<f64>() / response.values.len() as f64;
                prop_assert!((mean - score).abs() < 1e-6, "{name}: {mean} {score}");
            }
        }
    }

    /// Mirroring an image moves its texture but changes neither amount nor kind; the energy filters and the gradient do not see it.
    #[test]
    fn mirrored_images_score_alike(width_px in 1usize..60, height_px in 1usize..40, seed: u64) {
        let mut state = seed | 1;
        let pixels = (0..width_px * height_px * 3).map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        }).collect();
        let image = RgbImage { width_px, height_px, pixels };
        let mut mirrored = image.clone();
        (0..height_px).for_each(|y| (0..width_px).for_each(|x| mirrored.put(x, y, image.pixel(width_px - 1 - x, height_px - 1 - y))));
        for scorer in scorers().iter().filter(|s| ["otsu", "gradient", "dog", "log"].contains(&s.selector().name())) {
            let (a, b) = (scorer.measure(&image, None).unwrap(), scorer.measure(&mirrored, None).unwrap());
            prop_assert!((a - b).abs() <= 1e-5 * a.abs() + 1e-9, "{}: {a} {b}", scorer.selector().name());
        }
    }
}

#[test]
fn flat_images_have_no_texture_and_noise_has_much() {
    let flat = RgbImage::filled(96, 96, [231, 228, 233]);
    let mut noisy = flat.clone();
    noisy.pixels.iter_mut().enumerate().for_each(|(i, v)| *v = (i.wrapping_mul(2654435761) >> 9) as u8);
    for scorer in scorers() {
        let (low, high) = (scorer.measure(&flat, None).unwrap(), scorer.measure(&noisy, None).unwrap());
        match scorer.selector().name() {
            // One level is one class: the paper's complaint about textureless patches.
            "otsu" => assert_eq!(low, 1.0),
            "shannon" => assert!(low < high),
            // The truncated Laplacian does not sum to zero exactly.
            name => assert!(low < 0.01 && high > 0.05, "{name}: {low} {high}"),
        }
    }
}

#[test]
fn otsu_takes_one_threshold_for_a_slide_or_one_for_a_patch() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("slide.png");
    // Left half glass with faint noise, right half tissue.
    let mut image = RgbImage::filled(200, 100, [240; 3]);
    (0..20_000).for_each(|i| {
        let (x, y) = (i % 200, i / 200);
        let grain = (i * 7919 % 5) as u8;
        image.put(x, y, if x < 100 { [238 + grain; 3] } else { [150 + grain, 90, 140] });
    });
    image.write_png(&path).unwrap();
    let slide = Slide::open(&path).unwrap();
    let scores = |over| {
        let selector: Arc<dyn Selector> = Arc::new(Otsu { over });
        let threshold = selector.default_threshold();
        score_slide(&slide, &ScoreOptions { patch_px: 100, selector, threshold, ..ScoreOptions::default() }, &Silent)
            .unwrap()
    };
    let whole = scores(OtsuOver::Slide);
    assert_eq!(whole.patches.iter().map(|p| (p.score, p.kept)).collect::<Vec<_>>(), [(0.0, false), (1.0, true)]);
    assert_eq!(whole.tissue_threshold, Some(otsu::threshold(&GreyImage::of(&image))));
    let each = scores(OtsuOver::Patch);
    assert!(each.patches[0].score > 0.1, "noise on glass is split in two as well");
    assert_eq!(each.tissue_threshold, None);
}

#[test]
fn what_cannot_be_is_refused_in_one_sentence() {
    let selectors = Selectors::default();
    let unknown = selectors.named("sobel").unwrap_err().to_string();
    assert!(unknown.contains("sobel") && unknown.contains("dexined"), "{unknown}");
    assert!(selectors.named("dexined").unwrap_err().to_string().contains("10_model.pth"));
    let canny = selectors.named("canny").unwrap();
    assert!(canny.accepts(Threshold::Bits(1.0)).is_err() && canny.accepts(Threshold::Min(0.1)).is_ok());
    let options = ScoreOptions { selector: canny, prefilter: Some(0.5), ..ScoreOptions::default() };
    assert!(options.check().unwrap_err().to_string().contains("canny"));
    let set = |name: &str, parameters: serde_json::Value| {
        let mut selectors = Selectors::default();
        selectors.set(name, parameters.as_object().unwrap().clone()).and_then(|()| selectors.named(name))
    };
    assert!(
        set("dog", serde_json::json!({"sigma_px": 2.5})).unwrap()
            == (Arc::new(Dog { sigma_px: 2.5 }) as Arc<dyn Selector>)
    );
    for (name, parameters, word) in [
        ("dog", serde_json::json!({"sigma_px": -1.0}), "sigma"),
        ("dog", serde_json::json!({"sigma": 1.0}), "unknown field `sigma`"),
        ("canny", serde_json::json!({"aperture": "three"}), "canny"),
        ("shannon", serde_json::json!({"codec": "zip"}), "zip"),
        ("gradient", serde_json::json!({"sigma_px": 1.0}), "gradient"),
    ] {
        let said = set(name, parameters).err().unwrap().to_string();
        assert!(said.contains(word) && !said.contains('\n'), "{name}: {said}");
    }
    // As a configuration has them: a table a selector, the codec also by itself.
    let read = |text: &str| toml::from_str::<Selectors>(text).map_err(|e| e.to_string());
    let short = read("codec = \"order0\"\n[canny]\nlow = 50.0\n").unwrap();
    assert_eq!(short, read("[shannon]\ncodec = \"order0\"\n[canny]\nlow = 50.0\n").unwrap());
    assert_eq!(short, toml::from_str(&toml::to_string(&short).unwrap()).unwrap());
    assert_eq!(short.named("shannon").unwrap().key(), "shannon order0");
    for (text, word) in [
        ("kodec = \"lz\"", "kodec"),
        ("canny = 3", "[select.canny]"),
        ("codec = \"lz\"\n[shannon]\ncodec = \"lz\"", "twice"),
    ] {
        let said = read(text).unwrap_err();
        assert!(said.contains(word), "{text}: {said}");
    }
}

/// What tables, configurations and files of scores hold must not change by accident.
#[test]
fn names_and_keys_stand_for_one_thing_each() {
    let selectors = Selectors::default();
    let keys: Vec<String> = selectors.all().map(|selector| selector.key()).collect();
    assert_eq!(keys[..2], ["shannon lz", "otsu slide"]);
    for (spec, (selector, key)) in SELECTORS.iter().zip(selectors.all().zip(&keys)) {
        assert_eq!(selector.name(), spec.name);
        assert!(key.starts_with(spec.name) && keys.iter().filter(|other| *other == key).count() == 1, "{key}");
        let known = selector.parameters();
        assert!(spec.flags.iter().all(|flag| known.contains_key(flag.key)), "{}: a flag sets nothing", spec.name);
        assert!(spec.short_keys.iter().all(|key| known.contains_key(*key)), "{}", spec.name);
    }
}

fn isg(args: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_isg")).args(args).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn the_command_knows_every_selector() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name).display().to_string();
    let peers = Peers::open();
    let (_, image) = peers.images().into_iter().find(|(name, _)| name == "discs").unwrap();
    image.write_png(file("a.png")).unwrap();
    for name in scorers().iter().map(|scorer| scorer.selector().name()) {
        let (status, table, said) =
            isg(&["score", &file("a.png"), "--patch-px", "40", "--selector", name, "--top", "1"]);
        assert_eq!(status, 0, "{name}: {said}");
        let lines: Vec<&str> = table.lines().collect();
        let header = if name == "shannon" { "bits,bits_per_px" } else { "score" };
        assert_eq!(lines[0], format!("slide,x,y,patch_px,{header},kept"));
        assert_eq!(lines.len(), 3, "{table}");
        assert_eq!(lines.iter().filter(|line| line.ends_with(",1")).count(), 1, "{table}");
    }
    // Edges as a picture and as numbers are those of the library.
    let arguments = ["score", &file("a.png"), "--selector", "canny", "--canny-low", "60", "--canny-high", "150"];
    for response in ["edges.png", "edges.npy"] {
        let mut arguments = arguments.to_vec();
        let path = file(response);
        arguments.extend(["--canny-l2", "--response", &path]);
        assert_eq!(isg(&arguments).0, 0);
    }
    let canny = Canny { low: 60.0, high: 150.0, aperture: 3, l2: true };
    let edges = canny::edges(&GreyImage::of(&image), &canny);
    let read = Slide::open(file("edges.png")).unwrap().read_region(0, 0, 0, image.width_px, image.height_px).unwrap();
    assert!(read.pixels.chunks_exact(3).map(|p| p[0]).eq(edges.values.iter().copied()));
    let npy = std::fs::read(file("edges.npy")).unwrap();
    assert!(npy.starts_with(b"\x93NUMPY") && (npy.len() - 4 * edges.values.len()).is_multiple_of(64));

    let refused = |arguments: &[&str], word: &str| {
        let path = file("a.png");
        let arguments: Vec<&str> = ["score", &path].iter().chain(arguments).copied().collect();
        let (status, _, said) = isg(&arguments);
        assert!(status != 0 && said.contains(word) && said.lines().count() == 1, "{arguments:?}: {said}");
    };
    refused(&["--selector", "sobel"], "sobel");
    refused(&["--selector", "log", "--bits", "5"], "log");
    refused(&["--selector", "otsu", "--bpp", "5"], "otsu");
    refused(&["--selector", "dexined"], "--weights");
    refused(&["--selector", "dexined", "--weights", &file("none.pth"), "--quiet"], "none.pth");
    refused(&["--selector", "canny", "--canny-aperture", "4"], "aperture");
    refused(&["--selector", "dog", "--blur", "0"], "sigma");
}

#[test]
fn the_figure_holds_the_same_patches_under_every_selector() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name).display().to_string();
    // Glass above, texture below, stronger to the right: selectors disagree about some patches and agree about most.
    let mut image = RgbImage::filled(320, 160, [244, 243, 245]);
    for (y, x) in (80..160).flat_map(|y| (0..320).map(move |x| (y, x))) {
        let grain = ((x * 7919 + y * 104729) % 97 * x / 320) as u8;
        image.put(x, y, [190 - grain, 120 + grain / 2, 170 - grain]);
    }
    image.write_png(file("slide.png")).unwrap();
    let figure = file("figure.svg");
    let arguments = ["score", &file("slide.png"), "--patch-px", "40", "--top", "6", "--figure", &figure, "--quiet"];
    let (status, table, said) = isg(&arguments);
    assert_eq!((status, table.lines().count()), (0, 33), "{said}");
    let svg = std::fs::read_to_string(&figure).unwrap();
    roxmltree::Document::parse(&svg).unwrap();
    // Ten patches, ten responses and a map for each of six selectors.
    assert_eq!(svg.matches("<image ").count(), 10 + 6 * 10 + 6);
    assert!(svg.contains("Shannon: 6 of 32 kept") && svg.contains("Otsu: 16 of 32 kept"), "maps say what is kept");
    assert!(["DoG", "LoG", "Canny", "Gradient"].iter().all(|name| svg.contains(name)));
    for (name, image) in [("one", RgbImage::filled(1, 1, [9; 3])), ("thin", RgbImage::filled(90, 2, [200; 3]))] {
        image.write_png(file(name)).unwrap();
        let figure = file(&format!("{name}.svg"));
        assert_eq!(isg(&["score", &file(name), "--patch-px", "40", "--figure", &figure]).0, 0, "{name}");
        roxmltree::Document::parse(&std::fs::read_to_string(&figure).unwrap()).unwrap();
    }
}

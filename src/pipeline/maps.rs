//! A prediction on its slide: what every patch adds to every gene, and where the network looks. As pictures, as a table, and
//! as objects that QuPath opens.

use std::path::{Path, PathBuf};

use serde_json::json;

use crate::{
    error::{Error, Result},
    escape,
    io::atomic,
    mil::network::{Explanation, PatchMap},
    report::{PatchMark, Thumbnail},
};

/// Longest side of a picture.
pub const PICTURE_PX: usize = 1200;

/// Genes drawn where none are asked for.
pub const MOST_GENES: usize = 50;

/// Values of a slide's kept patches.
pub struct SlideMaps {
    pub slide: String,
    pub thumbnail: Thumbnail,
    /// µm per pixel of level 0.
    pub mpp: Option<f64>,
    /// Upper left corners in pixels of level 0, and the side of a patch.
    pub corners: Vec<[u64; 2]>,
    pub side_px: [u64; 2],
    pub layers: Vec<Layer>,
}

/// One number a patch.
pub struct Layer {
    /// A gene, or what the network says of patches, such as `attention`.
    pub name: String,
    /// Not finite where the patch has none.
    pub values: Vec<f64>,
}

/// The layers of an explanation: the contributions to `genes` (numbers into `names`), and the maps of whole patches.
pub fn layers(explanation: &Explanation, names: &[String], genes: &[usize]) -> Vec<Layer> {
    let mut layers = Vec::new();
    let mut patches = None;
    if let Some(contribution) = &explanation.contribution {
        patches = Some(contribution.len() / names.len().max(1));
        layers.extend(genes.iter().map(|&gene| Layer {
            name: names[gene].clone(),
            values: contribution.iter().skip(gene).step_by(names.len()).copied().collect(),
        }));
    }
    let patches = patches.or_else(|| explanation.attention().map(<[f64]>::len));
    let whole = explanation.maps.iter().filter(|map| Some(map.values.len()) == patches);
    layers.extend(whole.map(|PatchMap { name, values }| Layer { name: name.clone(), values: values.clone() }));
    layers
}

impl SlideMaps {
    /// Writes `SLIDE.csv`, `SLIDE.geojson` and a picture `SLIDE-LAYER.png` each into a folder; gives their paths.
    ///
    /// # Errors
    /// A folder that cannot be written to.
    pub fn write(&self, dir: &Path) -> Result<Vec<PathBuf>> {
        std::fs::create_dir_all(dir).map_err(|e| Error::io(dir, e))?;
        let mut written = Vec::new();
        let mut put = |name: String, bytes: &[u8]| {
            let path = dir.join(name);
            atomic::write_bytes(&path, bytes)?;
            written.push(path);
            Ok::<(), Error>(())
        };
        put(format!("{}.csv", self.slide), &self.csv()?)?;
        put(format!("{}.geojson", self.slide), self.geojson().to_string().as_bytes())?;
        for layer in &self.layers {
            let plain = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' };
            let name: String = layer.name.chars().map(plain).collect();
            put(format!("{}-{name}.png", self.slide), &self.picture(layer).to_png())?;
        }
        Ok(written)
    }

    /// `slide,x,y,gene,value`, corners in pixels of level 0.
    fn csv(&self) -> Result<Vec<u8>> {
        let mut table = csv::Writer::from_writer(Vec::new());
        table.write_record(["slide", "x", "y", "gene", "value"]).map_err(Error::internal)?;
        for layer in &self.layers {
            for ([x, y], value) in self.corners.iter().zip(&layer.values) {
                let (slide, gene) = (escape::cell(&self.slide), escape::cell(&layer.name));
                let row = [&slide, &x.to_string() as &str, &y.to_string(), &gene, &value.to_string()];
                table.write_record(row).map_err(Error::internal)?;
            }
        }
        table.into_inner().map_err(Error::internal)
    }

    /// A tile object a patch, with a measurement a layer, as QuPath 0.4 and newer read them.
    fn geojson(&self) -> serde_json::Value {
        let feature = |(i, &[x, y]): (usize, &[u64; 2])| {
            let [right, bottom] = [x + self.side_px[0], y + self.side_px[1]];
            let measured = |layer: &Layer| {
                let value = layer.values.get(i).copied().filter(|v| v.is_finite())?;
                Some((layer.name.clone(), value.into()))
            };
            let measurements: serde_json::Map<_, _> = self.layers.iter().filter_map(measured).collect();
            json!({
                "type": "Feature",
                "geometry": { "type": "Polygon", "coordinates": [[[x, y], [right, y], [right, bottom], [x, bottom], [x, y]]] },
                "properties": { "objectType": "tile", "measurements": measurements },
            })
        };
        let features: Vec<_> = self.corners.iter().enumerate().map(feature).collect();
        json!({ "type": "FeatureCollection", "features": features })
    }

    fn picture(&self, layer: &Layer) -> crate::image::RgbImage {
        let values = layer.values.iter().copied();
        let mark = |([x_px, y_px], score): (&[u64; 2], f64)| PatchMark {
            x_px: *x_px,
            y_px: *y_px,
            side_px: self.side_px[0],
            score,
            kept: true,
            attention: None,
        };
        let marks: Vec<PatchMark> = self.corners.iter().zip(values.clone()).map(mark).collect();
        let mut image = self.thumbnail.value_map(&marks, crate::report::clipped_range(values), |mark| Some(mark.score));
        self.thumbnail.draw_scale_bar(&mut image, self.mpp);
        image
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::RgbImage;

    fn maps() -> SlideMaps {
        let explanation = Explanation {
            prediction: vec![1.5, 3.0],
            contribution: Some(vec![1.0, 2.0, 2.0, 4.0]),
            maps: vec![
                PatchMap { name: "attention".into(), values: vec![0.25, 0.75] },
                PatchMap { name: "cells".into(), values: vec![0.0; 8] },
            ],
        };
        let names = ["A".to_string(), "B/2".to_string()];
        SlideMaps {
            slide: "s".into(),
            thumbnail: Thumbnail { image: RgbImage::filled(80, 40, [250; 3]), slide_px: (800, 400) },
            mpp: Some(0.5),
            corners: vec![[0, 0], [100, 0]],
            side_px: [100, 100],
            layers: layers(&explanation, &names, &[0, 1]),
        }
    }

    #[test]
    fn every_layer_is_in_every_file() -> Result<()> {
        let folder = tempfile::tempdir().map_err(|e| Error::io("temporary", e))?;
        let written = maps().write(folder.path())?;
        let names: Vec<_> = written.iter().filter_map(|p| p.file_name()?.to_str()).collect();
        assert_eq!(names, ["s.csv", "s.geojson", "s-A.png", "s-B_2.png", "s-attention.png"]);
        let table = std::fs::read_to_string(&written[0]).map_err(|e| Error::io(&written[0], e))?;
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!((lines.len(), lines[2], lines[3]), (7, "s,100,0,A,2", "s,0,0,B/2,2"));
        let objects = maps().geojson();
        assert_eq!(objects["features"][1]["properties"]["measurements"]["attention"], 0.75);
        assert_eq!(objects["features"][1]["geometry"]["coordinates"][0][2], json!([200, 100]));
        Ok(())
    }
}

//! Regions that somebody drew on a slide: polygons of GeoJSON, as QuPath exports its annotations, in level-0 pixels.
//!
//! Read are features and bare geometries, alone, in lists and in collections; polygons with holes, multipolygons, collections of
//! geometries. Points and lines hold no patch and are passed over. Annotations whose class ends in `*` are none of the slide's
//! tissue for QuPath (`Ignore*`), and are passed over too unless they are asked for by name.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::{
    error::{Error, Result},
    io::{checksum::Digest, text},
};

const REMEDY: &str = "export it from QuPath again: File, Export objects as GeoJSON";

/// The regions of one slide.
#[derive(Debug)]
pub struct Regions {
    path: PathBuf,
    digest: Digest,
    polygons: Vec<Polygon>,
}

/// Rings of corners: the outline, then holes.
#[derive(Debug)]
struct Polygon {
    rings: Vec<Vec<[f64; 2]>>,
    /// Left, top, right, bottom.
    bounds: [f64; 4],
}

impl Regions {
    /// Those of a file, of annotations of these classes; with none named, of all but QuPath's ignored ones.
    ///
    /// # Errors
    /// A file that cannot be read, is no GeoJSON, or holds no polygon of these classes.
    pub fn read(path: &Path, classes: &[String]) -> Result<Regions> {
        let unusable = |problem: String| Error::input(path, problem, REMEDY);
        let bytes = text::read_bytes(path, text::MAX_JSON_BYTES)?;
        let json: Value = serde_json::from_slice(&bytes).map_err(|e| unusable(format!("is no whole JSON ({e})")))?;
        let mut polygons = Vec::new();
        objects(&json, &mut |geometry, class| {
            let wanted = match class {
                Some(class) if !classes.is_empty() => classes.iter().any(|wanted| wanted == class),
                Some(class) => !class.ends_with('*'),
                None => classes.is_empty(),
            };
            if wanted { polygons_of(geometry, &mut polygons) } else { Ok(()) }
        })
        .map_err(unusable)?;
        if polygons.is_empty() {
            let of = if classes.is_empty() { String::new() } else { format!(" of class {}", classes.join(", ")) };
            let remedy = "draw one and export it as GeoJSON, or leave the slide out";
            return Err(Error::input(path, format!("holds no polygon{of}"), remedy));
        }
        let digest = Digest::of("regions", &(Digest::of_bytes(&bytes), classes));
        Ok(Regions { path: path.to_path_buf(), digest, polygons })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Of all that decides what lies inside.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Whether a point in level-0 pixels lies inside a polygon and in none of its holes.
    pub fn hold(&self, point: [f64; 2]) -> bool {
        self.polygons.iter().any(|polygon| polygon.holds(point))
    }
}

impl Polygon {
    fn holds(&self, [x, y]: [f64; 2]) -> bool {
        let [left, top, right, bottom] = self.bounds;
        // A hole is crossed once more, so that one count over all rings is even inside it.
        x >= left
            && x <= right
            && y >= top
            && y <= bottom
            && self.rings.iter().filter(|ring| odd(ring, [x, y])).count() % 2 == 1
    }
}

/// Whether a line from the point to the right crosses a ring an odd number of times.
fn odd(ring: &[[f64; 2]], [x, y]: [f64; 2]) -> bool {
    let mut inside = false;
    let mut from = ring[ring.len() - 1];
    for &to in ring {
        // An edge has its upper end and not its lower one: a corner between two edges counts once.
        if (from[1] > y) != (to[1] > y) {
            let crossing = from[0] + (y - from[1]) / (to[1] - from[1]) * (to[0] - from[0]);
            inside ^= x < crossing;
        }
        from = to;
    }
    inside
}

/// Calls `each` with every geometry and its class, whatever they are wrapped in.
fn objects<'a>(
    json: &'a Value,
    each: &mut dyn FnMut(&'a Value, Option<&'a str>) -> Result<(), String>,
) -> Result<(), String> {
    if let Value::Array(list) = json {
        return list.iter().try_for_each(|object| objects(object, each));
    }
    match json["type"].as_str() {
        Some("FeatureCollection") => {
            let list = json["features"].as_array().ok_or("is a collection without features")?;
            list.iter().try_for_each(|object| objects(object, each))
        }
        Some("Feature") => {
            let properties = &json["properties"];
            let named = |class: &'a Value| class.as_str().or_else(|| class["name"].as_str());
            each(&json["geometry"], named(&properties["classification"]))
        }
        Some(_) => each(json, None),
        None => Err("is no GeoJSON (an object has no type)".into()),
    }
}

fn polygons_of(geometry: &Value, polygons: &mut Vec<Polygon>) -> Result<(), String> {
    let list = |value: &'_ Value| value.as_array().cloned().ok_or("has a polygon without corners".to_string());
    match geometry["type"].as_str() {
        Some("Polygon") => polygons.push(polygon(&geometry["coordinates"])?),
        Some("MultiPolygon") => {
            for rings in list(&geometry["coordinates"])? {
                polygons.push(polygon(&rings)?);
            }
        }
        Some("GeometryCollection") => {
            for geometry in list(&geometry["geometries"])? {
                polygons_of(&geometry, polygons)?;
            }
        }
        Some("Point" | "MultiPoint" | "LineString" | "MultiLineString") => {}
        // A feature may have no geometry.
        None if geometry.is_null() => {}
        other => return Err(format!("has a geometry {}", other.unwrap_or("without a type"))),
    }
    Ok(())
}

fn polygon(rings: &Value) -> Result<Polygon, String> {
    let corner = |value: &Value| {
        let number = |at: usize| value.get(at).and_then(Value::as_f64).filter(|v| v.is_finite());
        number(0).zip(number(1)).map(|(x, y)| [x, y])
    };
    let ring = |value: &Value| -> Result<Vec<[f64; 2]>, String> {
        let corners: Option<Vec<[f64; 2]>> = value.as_array().and_then(|list| list.iter().map(corner).collect());
        let corners = corners.ok_or("has a corner that is no pair of numbers")?;
        if corners.len() < 3 { Err("has a polygon of fewer than three corners".into()) } else { Ok(corners) }
    };
    let rings = rings.as_array().filter(|rings| !rings.is_empty()).ok_or("has a polygon without corners")?;
    let rings: Vec<Vec<[f64; 2]>> = rings.iter().map(ring).collect::<Result<_, _>>()?;
    let start = [f64::INFINITY, f64::INFINITY, f64::NEG_INFINITY, f64::NEG_INFINITY];
    let wider = |[l, t, r, b]: [f64; 4], &[x, y]: &[f64; 2]| [l.min(x), t.min(y), r.max(x), b.max(y)];
    let bounds = rings[0].iter().fold(start, wider);
    Ok(Polygon { rings, bounds })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str, classes: &[&str]) -> Result<Regions> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("a.geojson");
        std::fs::write(&path, json).expect("a writable folder");
        Regions::read(&path, &classes.iter().map(|class| (*class).to_string()).collect::<Vec<_>>())
    }

    const DONUT: &str = "[[[0,0],[10,0],[10,10],[0,10],[0,0]],[[4,4],[6,4],[6,6],[4,6],[4,4]]]";

    #[test]
    fn holes_are_outside_and_every_polygon_of_many_counts() {
        let far = "[[[20.5,0],[30,0],[30,5],[20.5,0]]]";
        let multi = format!(r#"{{"type":"MultiPolygon","coordinates":[{DONUT},{far}]}}"#);
        let plain = format!(r#"{{"type":"Polygon","coordinates":{DONUT}}}"#);
        // Two polygons over each other are one region, not a hole.
        let twice = format!(
            r#"{{"type":"GeometryCollection","geometries":[{plain},{plain},{{"type":"Point","coordinates":[5,5]}}]}}"#
        );
        for (geometry, inside_far) in [(&multi, true), (&plain, false), (&twice, false)] {
            let feature = format!(r#"{{"type":"Feature","id":"x","geometry":{geometry},"properties":{{}}}}"#);
            let collection = format!(r#"{{"type":"FeatureCollection","features":[{feature}]}}"#);
            for json in [geometry, &feature, &collection, &format!("[{feature}]")] {
                let regions = read(json, &[]).expect("regions");
                assert!(regions.hold([1.0, 1.0]) && regions.hold([5.0, 3.9]) && regions.hold([6.5, 5.0]));
                assert!(!regions.hold([5.0, 5.0]) && !regions.hold([11.0, 5.0]) && !regions.hold([5.0, -1.0]));
                assert_eq!(regions.hold([29.0, 2.0]), inside_far);
            }
        }
    }

    /// Patches side by side belong to one side of an edge between two regions, never to both or none.
    #[test]
    fn points_on_shared_edges_and_corners_belong_to_one_side() {
        let square = |x: i32, y: i32| {
            let (r, b) = (x + 2, y + 2);
            let json = format!(r#"{{"type":"Polygon","coordinates":[[[{x},{y}],[{r},{y}],[{r},{b}],[{x},{b}]]]}}"#);
            read(&json, &[]).expect("a square")
        };
        let squares = [square(0, 0), square(2, 0), square(0, 2), square(2, 2)];
        for point in [[2.0, 1.0], [1.0, 2.0], [2.0, 2.0], [2.0, 3.5], [3.0, 2.0]] {
            assert_eq!(squares.iter().filter(|square| square.hold(point)).count(), 1, "{point:?}");
        }
    }

    #[test]
    fn classes_choose_and_what_is_no_region_is_refused_in_words() {
        let of = |class: &str| {
            let feature =
                r#"{"type":"Feature","geometry":{"type":"Polygon","coordinates":[[[0,0],[9,0],[9,9]]]},"properties":"#;
            format!(r#"{feature}{{"objectType":"annotation","classification":{{"name":"{class}","color":[1,2,3]}}}}}}"#)
        };
        assert!(read(&of("Tumor"), &[]).is_ok() && read(&of("Tumor"), &["Tumor", "Stroma"]).is_ok());
        assert!(read(&of("Ignore*"), &["Ignore*"]).is_ok());
        let (ignored, tumor) = (of("Ignore*"), of("Tumor"));
        let cases: [(&str, &[&str], &str); 8] = [
            (&ignored, &[], "holds no polygon"),
            (&tumor, &["Stroma"], "holds no polygon of class Stroma"),
            ("{\"type\":\"FeatureCollection\"}", &[], "collection without features"),
            ("{\"a\":1}", &[], "is no GeoJSON"),
            ("{", &[], "is no whole JSON"),
            ("{\"type\":\"Polygon\",\"coordinates\":[[[0,0],[1,null],[1,1]]]}", &[], "no pair of numbers"),
            ("{\"type\":\"Polygon\",\"coordinates\":[[[0,0],[1,1]]]}", &[], "fewer than three corners"),
            ("{\"type\":\"Circle\",\"coordinates\":[]}", &[], "has a geometry Circle"),
        ];
        for (json, classes, said) in cases {
            let error = read(json, classes).expect_err(json).to_string();
            assert!(error.contains(said), "{json}: {error}");
        }
    }
}

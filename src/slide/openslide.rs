//! Slides of vendors whose formats are not read here, through OpenSlide where its library is on the machine.
//!
//! The library is loaded at run time: `libopenslide.so.1` (OpenSlide 4) before `libopenslide.so.0` (3.4), never both, because their
//! symbols are the same. What is used of them is the same too. Pixels are OpenSlide's own; what lies on no tile is white.
//!
//! OpenSlide's `read_region` takes places in level-0 pixels: a level's pixel lies where the level's downsample puts it, rounded.

use std::{
    ffi::{CStr, CString, c_char, c_void},
    fmt,
    path::Path,
    sync::OnceLock,
};

use libloading::{Library, Symbol};

use super::{
    Level,
    format::{Opened, Source},
    scale::{MppSource, Scale, decimal},
};
use crate::{
    error::{Error, Result},
    image::RgbImage,
};

/// Newest first.
#[cfg(target_os = "macos")]
const NAMES: [&str; 2] = ["libopenslide.1.dylib", "libopenslide.0.dylib"];
#[cfg(windows)]
const NAMES: [&str; 2] = ["libopenslide-1.dll", "libopenslide-0.dll"];
#[cfg(not(any(target_os = "macos", windows)))]
const NAMES: [&str; 2] = ["libopenslide.so.1", "libopenslide.so.0"];

/// What to do where the library is not there.
pub const INSTALL: &str = "install OpenSlide (apt-get install libopenslide0)";
/// Tiles that are kept in memory, where the slide's own are not of a size worth keeping.
const TILE_PX: u64 = 512;
const OWN_TILE_PX: std::ops::RangeInclusive<u64> = 128..=1024;
const MAX_LEVELS: i32 = 64;
/// The most of the library's reasons that is printed.
const MOST_CHARS: usize = 100;
const MAX_SIDE_PX: i64 = 1 << 32;

/// A slide as the library holds it.
#[repr(C)]
struct Osr(c_void);

type Names = *const *const c_char;

/// The functions that are used, as `openslide.h` declares them in both versions.
struct Functions {
    detect_vendor: unsafe extern "C" fn(*const c_char) -> *const c_char,
    open: unsafe extern "C" fn(*const c_char) -> *mut Osr,
    close: unsafe extern "C" fn(*mut Osr),
    get_error: unsafe extern "C" fn(*mut Osr) -> *const c_char,
    get_level_count: unsafe extern "C" fn(*mut Osr) -> i32,
    get_level_dimensions: unsafe extern "C" fn(*mut Osr, i32, *mut i64, *mut i64),
    get_level_downsample: unsafe extern "C" fn(*mut Osr, i32) -> f64,
    read_region: unsafe extern "C" fn(*mut Osr, *mut u32, i64, i64, i32, i64, i64),
    get_property_names: unsafe extern "C" fn(*mut Osr) -> Names,
    get_property_value: unsafe extern "C" fn(*mut Osr, *const c_char) -> *const c_char,
    get_associated_image_names: unsafe extern "C" fn(*mut Osr) -> Names,
    get_associated_image_dimensions: unsafe extern "C" fn(*mut Osr, *const c_char, *mut i64, *mut i64),
    read_associated_image: unsafe extern "C" fn(*mut Osr, *const c_char, *mut u32),
    version: String,
    /// The functions are in it: it stays loaded.
    _library: Library,
}

/// The library's version, or why it cannot be used.
pub fn version() -> Result<&'static str, &'static str> {
    functions().map(|functions| functions.version.as_str())
}

fn functions() -> Result<&'static Functions, &'static str> {
    static FUNCTIONS: OnceLock<Result<Functions, String>> = OnceLock::new();
    FUNCTIONS.get_or_init(load).as_ref().map_err(String::as_str)
}

fn load() -> Result<Functions, String> {
    // SAFETY: opens a library by name; OpenSlide's initialisers and those of what it links to are harmless.
    let found = NAMES.iter().find_map(|name| unsafe { Library::new(*name) }.ok());
    let library = found.ok_or("libopenslide is not on this machine")?;
    /// # Safety
    /// `T` is the type of the function of this name.
    unsafe fn symbol<T: Copy>(library: &Library, name: &str) -> Result<T, String> {
        // SAFETY: as the caller upholds.
        let found: Result<Symbol<T>, _> = unsafe { library.get(name.as_bytes()) };
        found.map(|symbol| *symbol).map_err(|_| format!("the library of OpenSlide lacks {name}"))
    }
    // SAFETY: the types are those of `openslide.h`, equal in the versions whose names are loaded.
    unsafe {
        let get_version: unsafe extern "C" fn() -> *const c_char = symbol(&library, "openslide_get_version")?;
        Ok(Functions {
            detect_vendor: symbol(&library, "openslide_detect_vendor")?,
            open: symbol(&library, "openslide_open")?,
            close: symbol(&library, "openslide_close")?,
            get_error: symbol(&library, "openslide_get_error")?,
            get_level_count: symbol(&library, "openslide_get_level_count")?,
            get_level_dimensions: symbol(&library, "openslide_get_level_dimensions")?,
            get_level_downsample: symbol(&library, "openslide_get_level_downsample")?,
            read_region: symbol(&library, "openslide_read_region")?,
            get_property_names: symbol(&library, "openslide_get_property_names")?,
            get_property_value: symbol(&library, "openslide_get_property_value")?,
            get_associated_image_names: symbol(&library, "openslide_get_associated_image_names")?,
            get_associated_image_dimensions: symbol(&library, "openslide_get_associated_image_dimensions")?,
            read_associated_image: symbol(&library, "openslide_read_associated_image")?,
            version: text(get_version()).unwrap_or_default(),
            _library: library,
        })
    }
}

/// # Safety
/// Null, or a C string that outlives the call.
unsafe fn text(at: *const c_char) -> Option<String> {
    // SAFETY: as the caller upholds.
    (!at.is_null()).then(|| unsafe { CStr::from_ptr(at) }.to_string_lossy().into_owned())
}

/// An open slide of the library's. Any number of threads read from one.
pub struct OpenSlide {
    functions: &'static Functions,
    osr: *mut Osr,
    pub(super) levels: Vec<Level>,
    /// Names and sizes.
    pub(super) associated: Vec<(String, u64, u64)>,
}

// SAFETY: OpenSlide's functions may be called on one slide from any thread and at once, but for `openslide_close`, which is called
// when nobody has the slide any more.
unsafe impl Send for OpenSlide {}
// SAFETY: as above.
unsafe impl Sync for OpenSlide {}

impl fmt::Debug for OpenSlide {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_struct("OpenSlide").field("levels", &self.levels).finish_non_exhaustive()
    }
}

impl Drop for OpenSlide {
    fn drop(&mut self) {
        // SAFETY: `osr` came from `openslide_open`, is not null, and nobody else has it.
        unsafe { (self.functions.close)(self.osr) };
    }
}

/// Why a slide was not opened.
pub(super) enum Refusal {
    /// There is no library that can be used.
    NoLibrary(&'static str),
    /// The library does not open it: which version, and what it says.
    NotOpened(String),
}

/// Opens a file that the library takes for one of `vendor`'s, with `vendor` as it calls it; of any vendor's for `None`.
pub(super) fn open(path: &Path, vendor: Option<&'static str>) -> Result<Opened, Refusal> {
    let functions = functions().map_err(Refusal::NoLibrary)?;
    let refuse = |why: &str| {
        // Some of its reasons are long, and name the file again.
        let why: String = why.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MOST_CHARS).collect();
        Refusal::NotOpened(format!("OpenSlide {} does not open ({why})", functions.version))
    };
    let name = CString::new(path.as_os_str().as_encoded_bytes()).map_err(|_| refuse("its name has a zero byte"))?;
    // SAFETY: `name` is a C string; what is given back is a constant of the library, or null.
    let found = unsafe { text((functions.detect_vendor)(name.as_ptr())) };
    match (&found, vendor) {
        (None, _) => return Err(refuse("it is of no format that it knows")),
        (Some(found), Some(vendor)) if found != vendor => return Err(refuse(&format!("it takes it for {found}"))),
        _ => {}
    }
    // SAFETY: `name` is a C string.
    let osr = unsafe { (functions.open)(name.as_ptr()) };
    if osr.is_null() {
        return Err(refuse("it is of no format that it knows"));
    }
    let mut slide = OpenSlide { functions, osr, levels: Vec::new(), associated: Vec::new() };
    slide.describe().and_then(|()| slide.opened(vendor.unwrap_or("openslide"))).map_err(|why| refuse(&why))
}

impl OpenSlide {
    /// What went wrong with the slide, ever: the library reads nothing more of it.
    fn failure(&self) -> Option<String> {
        // SAFETY: `osr` is open; what is given back lives as long as it.
        unsafe { text((self.functions.get_error)(self.osr)) }
    }

    fn property(&self, name: &str) -> Option<String> {
        let name = CString::new(name).ok()?;
        // SAFETY: `osr` is open and `name` a C string; what is given back lives as long as the slide.
        unsafe { text((self.functions.get_property_value)(self.osr, name.as_ptr())) }
    }

    /// # Safety
    /// `names` is null or an array of C strings that ends in null.
    unsafe fn listed(mut names: Names) -> Vec<String> {
        let mut out = Vec::new();
        while !names.is_null() {
            // SAFETY: the array has not ended yet, as the caller upholds.
            let Some(name) = (unsafe { text(*names) }) else { break };
            out.push(name);
            // SAFETY: at most one past the null that ends it.
            names = unsafe { names.add(1) };
        }
        out
    }

    /// Reads levels and associated images.
    fn describe(&mut self) -> Result<(), String> {
        if let Some(why) = self.failure() {
            return Err(why);
        }
        // SAFETY: `osr` is open.
        let count = unsafe { (self.functions.get_level_count)(self.osr) };
        if !(1..=MAX_LEVELS).contains(&count) {
            return Err(format!("it has {count} levels"));
        }
        for level in 0..count {
            let (mut width, mut height) = (0, 0);
            // SAFETY: `osr` is open, and the numbers are written to where they stand.
            unsafe { (self.functions.get_level_dimensions)(self.osr, level, &raw mut width, &raw mut height) };
            // SAFETY: `osr` is open.
            let downsample = unsafe { (self.functions.get_level_downsample)(self.osr, level) };
            let right = |side: i64| (1..MAX_SIDE_PX).contains(&side);
            if !(right(width) && right(height) && downsample >= 1.0) {
                return Err(format!("its level {level} is {width} x {height} px"));
            }
            let own = |side: &str| {
                let stated = self.property(&format!("openslide.level[{level}].tile-{side}"))?;
                stated.parse::<u64>().ok().filter(|px| OWN_TILE_PX.contains(px))
            };
            let (across, down) = own("width").zip(own("height")).unwrap_or((TILE_PX, TILE_PX));
            self.levels.push(Level {
                width_px: width as u64,
                height_px: height as u64,
                downsample,
                tile_width_px: across.min(width as u64),
                tile_height_px: down.min(height as u64),
                compression: "OpenSlide's".into(),
            });
        }
        // SAFETY: `osr` is open; the list lives as long as it and ends in null.
        let names = unsafe { Self::listed((self.functions.get_associated_image_names)(self.osr)) };
        for name in names {
            let Ok(c_name) = CString::new(name.as_str()) else { continue };
            let (mut width, mut height) = (-1, -1);
            // SAFETY: `osr` is open, `c_name` a C string, and the numbers are written to where they stand.
            unsafe {
                (self.functions.get_associated_image_dimensions)(
                    self.osr,
                    c_name.as_ptr(),
                    &raw mut width,
                    &raw mut height,
                );
            }
            if (1..MAX_SIDE_PX).contains(&width) && (1..MAX_SIDE_PX).contains(&height) {
                self.associated.push((name, width as u64, height as u64));
            }
        }
        self.failure().map_or(Ok(()), Err)
    }

    fn opened(self, vendor: &'static str) -> Result<Opened, String> {
        let number = |name: &str| self.property(name).as_deref().and_then(decimal);
        let scale = number("openslide.mpp-x").zip(number("openslide.mpp-y"));
        // SAFETY: `osr` is open; the list lives as long as it and ends in null.
        let names = unsafe { Self::listed((self.functions.get_property_names)(self.osr)) };
        let properties = names.into_iter().filter_map(|name| Some((name.clone(), self.property(&name)?))).collect();
        Ok(Opened {
            vendor,
            scale: scale.and_then(|(x, y)| Scale::plausible(x, y, MppSource::Vendor)),
            magnification: number("openslide.objective-power"),
            properties,
            remarks: vec![format!("it is read through OpenSlide {}", self.functions.version)],
            source: Source::OpenSlide(self),
        })
    }

    /// The tile at this column and row of a level, cut at the level's edges.
    pub(super) fn tile(&self, path: &Path, level: usize, column: u64, row: u64) -> Result<RgbImage> {
        let Level { width_px, height_px, downsample, tile_width_px, tile_height_px, .. } = self.levels[level];
        let (x, y) = (column * tile_width_px, row * tile_height_px);
        let (width, height) = (tile_width_px.min(width_px - x), tile_height_px.min(height_px - y));
        let place = |at: u64| (at as f64 * downsample).round() as i64;
        let mut pixels = vec![0u32; (width * height) as usize];
        // SAFETY: `osr` is open, the level is one of its, and `pixels` holds a number for each of the region's.
        unsafe {
            (self.functions.read_region)(
                self.osr,
                pixels.as_mut_ptr(),
                place(x),
                place(y),
                level as i32,
                width as i64,
                height as i64,
            );
        }
        self.image(path, &pixels, width, height)
    }

    /// One of the associated images.
    pub(super) fn associated_image(&self, path: &Path, image: &(String, u64, u64)) -> Result<RgbImage> {
        let (name, width, height) = image;
        let c_name = CString::new(name.as_str()).map_err(Error::internal)?;
        let mut pixels = vec![0u32; (width * height) as usize];
        // SAFETY: `osr` is open, `c_name` one of its images, and `pixels` holds a number for each of that image's pixels.
        unsafe { (self.functions.read_associated_image)(self.osr, c_name.as_ptr(), pixels.as_mut_ptr()) };
        self.image(path, &pixels, *width, *height)
    }

    /// Premultiplied ARGB over white.
    fn image(&self, path: &Path, pixels: &[u32], width: u64, height: u64) -> Result<RgbImage> {
        if let Some(why) = self.failure() {
            return Err(Error::input(path, format!("OpenSlide cannot read it ({why})"), "copy or export it again"));
        }
        let over_white = |pixel: u32| {
            let [alpha, red, green, blue] = pixel.to_be_bytes();
            [red, green, blue].map(|colour| colour.saturating_add(255 - alpha))
        };
        let pixels = pixels.iter().flat_map(|&pixel| over_white(pixel)).collect();
        Ok(RgbImage { width_px: width as usize, height_px: height as usize, pixels })
    }
}

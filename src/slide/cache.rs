//! Decoded tiles, least recently used first out, up to a limit in bytes, shared between threads.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard},
};

use crate::image::RgbImage;

/// Which decoded tile: the image within the slide, and the chunk within the image.
pub type TileKey = (usize, u64);

/// Bytes a tile costs beyond its pixels: map entries and allocation headers.
const OVERHEAD_BYTES: usize = 256;

#[derive(Default)]
struct Shelf {
    tiles: HashMap<TileKey, (Arc<RgbImage>, u64)>,
    by_age: BTreeMap<u64, TileKey>,
    clock: u64,
    held_bytes: usize,
}

/// A bounded set of decoded tiles.
pub struct TileCache {
    limit_bytes: usize,
    shelf: Mutex<Shelf>,
}

fn cost_bytes(tile: &RgbImage) -> usize {
    tile.pixels.len() + OVERHEAD_BYTES
}

impl TileCache {
    /// Holds at most `limit_bytes`; with 0 nothing is kept.
    pub fn new(limit_bytes: usize) -> TileCache {
        TileCache { limit_bytes, shelf: Mutex::default() }
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        // A thread that panicked while holding the lock leaves at worst a wrong age behind.
        self.shelf.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub fn get(&self, key: TileKey) -> Option<Arc<RgbImage>> {
        let shelf = &mut *self.shelf();
        shelf.clock += 1;
        let (tile, age) = shelf.tiles.get_mut(&key)?;
        shelf.by_age.remove(age);
        *age = shelf.clock;
        shelf.by_age.insert(shelf.clock, key);
        Some(tile.clone())
    }

    pub fn put(&self, key: TileKey, tile: &Arc<RgbImage>) {
        let cost = cost_bytes(tile);
        if cost > self.limit_bytes {
            return;
        }
        let shelf = &mut *self.shelf();
        shelf.clock += 1;
        let clock = shelf.clock;
        if let Some((old, age)) = shelf.tiles.insert(key, (tile.clone(), clock)) {
            shelf.by_age.remove(&age);
            shelf.held_bytes -= cost_bytes(&old);
        }
        shelf.by_age.insert(clock, key);
        shelf.held_bytes += cost;
        while shelf.held_bytes > self.limit_bytes {
            let Some((_, oldest)) = shelf.by_age.pop_first() else { break };
            if let Some((tile, _)) = shelf.tiles.remove(&oldest) {
                shelf.held_bytes -= cost_bytes(&tile);
            }
        }
    }

    pub fn held_bytes(&self) -> usize {
        self.shelf().held_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tile(side: usize) -> Arc<RgbImage> {
        Arc::new(RgbImage::filled(side, side, [7; 3]))
    }

    #[test]
    fn the_least_recently_used_tile_goes_first() {
        let cost = cost_bytes(&tile(10));
        let cache = TileCache::new(2 * cost);
        cache.put((0, 1), &tile(10));
        cache.put((0, 2), &tile(10));
        assert!(cache.get((0, 1)).is_some());
        cache.put((0, 3), &tile(10));
        assert!(cache.get((0, 2)).is_none(), "tile 2 was used longest ago");
        assert!(cache.get((0, 1)).is_some() && cache.get((0, 3)).is_some());
        assert_eq!(cache.held_bytes(), 2 * cost);
    }

    #[test]
    fn the_limit_holds_whatever_is_put() {
        let cache = TileCache::new(10_000);
        for k in 0..100 {
            cache.put((0, k % 7), &tile(1 + k as usize % 40));
            assert!(cache.held_bytes() <= 10_000);
        }
        cache.put((1, 0), &tile(1000));
        assert!(cache.get((1, 0)).is_none(), "a tile beyond the whole limit is not kept");
    }
}

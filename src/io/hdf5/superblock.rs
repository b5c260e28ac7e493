//! The beginning of a file: how wide its addresses are and where its root group lies. Versions 0 to 3.

use super::bytes::{AGAIN, Cursor, Image, PLAINER, damaged, refuse};
use crate::io::pickle::Refusal;

const SIGNATURE: &[u8; 8] = b"\x89HDF\r\n\x1a\n";

/// The file from its superblock on, and the address of the root group's header.
pub(super) fn read(map: &[u8]) -> Result<(Image<'_>, u64), Refusal> {
    // A user's own bytes may come first: the signature stands at 0, 512, 1024, 2048, ...
    let places = std::iter::once(0).chain(std::iter::successors(Some(512usize), |at| at.checked_mul(2)));
    let mut places = places.take_while(|&at| at < map.len());
    let base = places
        .find(|&at| map[at..].starts_with(SIGNATURE))
        .ok_or_else(|| refuse("is no HDF5 file", "name a file that h5py wrote"))?;
    let mut image = Image { data: &map[base..], address_bytes: 8, length_bytes: 8 };
    let mut cursor = Cursor { file: image, rest: &image.data[8..] };
    let version = cursor.u8()?;
    match version {
        0 | 1 => cursor.skip(4)?,
        2 | 3 => {}
        _ => return Err(refuse(format!("is an HDF5 file of a newer kind (superblock {version})"), PLAINER)),
    }
    let [address_bytes, length_bytes] = [cursor.u8()?, cursor.u8()?];
    if !matches!((address_bytes, length_bytes), (2 | 4 | 8, 2 | 4 | 8)) {
        return Err(damaged("addresses of an odd width"));
    }
    (image.address_bytes, image.length_bytes) = (address_bytes.into(), length_bytes.into());
    cursor.file = image;
    match version {
        0 => cursor.skip(9)?,
        1 => cursor.skip(13)?,
        _ => cursor.skip(1)?,
    }
    // Addresses count from the base, which is where the superblock lies.
    cursor.address()?;
    cursor.address()?; // free space, or the superblock's extension
    let end = cursor.address()?.ok_or_else(|| damaged("no address of its end"))?;
    let root = match version {
        0 | 1 => {
            cursor.address()?; // the driver
            cursor.address()?; // the name of the root
            cursor.address()?
        }
        _ => {
            let root = cursor.address()?;
            let length = 12 + 4 * image.address_bytes + 4;
            image.checked(0, length)?;
            root
        }
    };
    // Some writers count the end from the file's beginning.
    if end.saturating_sub(base as u64) > image.data.len() as u64 {
        let sizes = format!("{} of {end} bytes", image.data.len());
        return Err(refuse(format!("is cut short ({sizes})"), AGAIN));
    }
    Ok((image, root.ok_or_else(|| damaged("no root group"))?))
}

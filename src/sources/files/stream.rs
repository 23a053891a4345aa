//! The uncompressed bytes of a file, whatever it is compressed with.

use std::fs::{File, Metadata};
use std::io::{self, BufReader, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// Compressed bytes read at once.
const COMPRESSED_BLOCK: usize = 64 << 10;

/// A file on its file system: stays the same when it is renamed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    /// The file that these are the metadata of.
    pub fn of(metadata: &Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino() }
    }
}

/// An open file, read from front to back.
pub struct Stream {
    file: File,
    id: FileId,
    decoder: Decoder,
    /// Bytes of the uncompressed stream handed out.
    position: u64,
}

enum Decoder {
    Plain,
    Gzip(Box<flate2::bufread::MultiGzDecoder<BufReader<File>>>),
    Zstd(zstd::Decoder<'static, BufReader<File>>),
}

impl Stream {
    /// Opens a file and finds out its format by its first bytes. An empty or very short file is plain.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        let mut magic = [0; 4];
        let length = read_up_to(&mut magic, |buffer, at| file.read_at(buffer, at))?;
        let reader = || io::Result::Ok(BufReader::with_capacity(COMPRESSED_BLOCK, file.try_clone()?));
        let decoder = if magic[..length].starts_with(&GZIP) {
            Decoder::Gzip(Box::new(flate2::bufread::MultiGzDecoder::new(reader()?)))
        } else if magic[..length] == ZSTD {
            Decoder::Zstd(zstd::Decoder::with_buffer(reader()?)?)
        } else {
            Decoder::Plain
        };
        Ok(Self { id: FileId::of(&metadata), file, decoder, position: 0 })
    }

    /// Which file it is.
    pub fn id(&self) -> FileId {
        self.id
    }

    /// Whether the file is compressed. Compressed files are taken to be complete.
    pub fn is_compressed(&self) -> bool {
        !matches!(self.decoder, Decoder::Plain)
    }

    /// What the file system knows of the open file, under whatever name.
    pub fn metadata(&self) -> io::Result<Metadata> {
        self.file.metadata()
    }

    /// Goes to a position of the uncompressed stream, not before the present one. Compressed files are decompressed up
    /// to there; one that ends before it is an `UnexpectedEof`.
    pub fn skip_to(&mut self, position: u64) -> io::Result<()> {
        if let Decoder::Plain = self.decoder {
            self.position = position;
            return Ok(());
        }
        let mut scratch = vec![0; COMPRESSED_BLOCK];
        while self.position < position {
            let want = scratch.len().min((position - self.position) as usize);
            if self.read(&mut scratch[..want])? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }

    /// The first bytes of the uncompressed stream as they are now: only for plain files, others do not change.
    pub fn head(&self, buffer: &mut [u8]) -> io::Result<usize> {
        read_up_to(buffer, |buffer, at| self.file.read_at(buffer, at))
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = match &mut self.decoder {
            // By position, since a clone of the file shares its cursor, and the file may have been cut.
            Decoder::Plain => self.file.read_at(buffer, self.position)?,
            Decoder::Gzip(decoder) => decoder.read(buffer)?,
            Decoder::Zstd(decoder) => decoder.read(buffer)?,
        };
        self.position += length as u64;
        Ok(length)
    }
}

/// The first bytes of a file, uncompressed, at most the buffer's length.
pub fn read_head(path: &Path, buffer: &mut [u8]) -> io::Result<(Stream, usize)> {
    let mut stream = Stream::open(path)?;
    let mut length = 0;
    while length < buffer.len() {
        match stream.read(&mut buffer[length..]) {
            Ok(0) => break,
            Ok(n) => length += n,
            // What comes before the damage, or before the end of what is being written, may be enough.
            Err(_) if length > 0 => break,
            Err(error) => return Err(error),
        }
    }
    Ok((stream, length))
}

/// Fills a buffer from `read(rest, position)` until it says that there is no more.
fn read_up_to(buffer: &mut [u8], mut read: impl FnMut(&mut [u8], u64) -> io::Result<usize>) -> io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match read(&mut buffer[length..], length as u64) {
            Ok(0) => break,
            Ok(n) => length += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

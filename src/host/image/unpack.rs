//! Unpacks compressed images, in a process of its own: this program again, which has the two open files and nothing else,
//! neither a file by its name nor a socket, within a bound of memory. So what a decoder makes of a hostile file is that
//! process' end and nobody else's, and a window of four gigabytes is refused by the kernel (docs/adr/0044).

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read, Write},
    os::{fd::AsRawFd, unix::fs::FileExt},
    path::Path,
    process::Output,
    sync::Arc,
};

use landlock::{ABI, Access, AccessFs, AccessNet, Ruleset, RulesetAttr};
use ruzstd::decoding::{
    BlockDecodingStrategy, FrameDecoder,
    errors::{FrameDecoderError, ReadFrameHeaderError},
};

use super::{
    COPY, Copied, ImageError, Keep, QUICK,
    run::{Tool, UNPACKING},
};
use crate::model::{Compression, MissingLayer};

/// How the process is told what it is; behind it come the compression, the two descriptors and the bytes that it may write.
pub const HELPER: &str = "unpack";

/// Read at a time, and looked at for holes.
const PIECE: usize = 64 << 10;
/// Bytes of the largest disk that there is.
const LARGEST: u64 = 65_536 << 30;
/// What its exit status says beside success.
const DAMAGED: i32 = 3;
const FULL: i32 = 4;
/// Of memory.
const SIGABRT: i32 = 6;

/// Starts such processes, or says why it cannot.
#[derive(Clone, Debug)]
pub struct Unpacker(Result<Tool, String>);

/// What is to be unpacked.
pub struct Unpack<'a> {
    pub compression: Compression,
    pub from: &'a File,
    /// Empty, and open for writing.
    pub to: &'a File,
    /// Bytes that may be written; holes are none.
    pub room: u64,
}

impl Unpacker {
    /// By this program, which may be found at another place.
    pub async fn find(program: Option<&Path>, keep: &Keep) -> Self {
        let program = program.unwrap_or(Path::new("/proc/self/exe"));
        Self(Tool::find(program, UNPACKING, keep, QUICK).await)
    }

    /// Layers that they go without here, and why.
    pub fn missing(&self) -> Vec<MissingLayer> {
        self.0.as_ref().map_or_else(|_| Vec::new(), Tool::missing)
    }

    /// Has it unpacked, and told in `copied` how far that is.
    ///
    /// # Errors
    /// [`ImageError::Unsuitable`] for what is damaged or has no end, [`ImageError::Full`].
    pub async fn unpack(&self, job: Unpack<'_>, copied: &Arc<Copied>) -> Result<(), ImageError> {
        let host = |error: io::Error| ImageError::Host(format!("cannot unpack: {error}"));
        let length = job.from.metadata().map_err(host)?.len();
        let (from, to) = (job.from.as_raw_fd(), job.to.as_raw_fd());
        let numbers = [from.to_string(), to.to_string(), job.room.to_string()];
        let tool = self.0.as_ref().map_err(|why| host(io::Error::other(why.clone())))?;
        let run = tool.run(COPY, |permit| permit).args([HELPER, job.compression.as_str()]).args(numbers);
        copied.begin(length);
        let ended = run.reads(job.from).writes(job.to).heard_by(copied).output().await.ok_or_else(|| {
            let must = format!("be unpacked within {} s, and this one has no end by then", COPY.as_secs());
            ImageError::Unsuitable(must)
        })?;
        let Output { status, stderr, .. } = ended.map_err(|error| ImageError::of_run("cannot unpack", &error))?;
        let words = String::from_utf8_lossy(&stderr);
        let words = words.trim().lines().last().unwrap_or_default();
        let packed = job.compression.as_str();
        match (status.code(), std::os::unix::process::ExitStatusExt::signal(&status)) {
            (Some(0), _) => Ok(()),
            (Some(DAMAGED), _) => Err(ImageError::Unsuitable(format!(
                "be a whole file compressed with {packed}, but it cannot be unpacked: {words}"
            ))),
            (Some(FULL), _) => Err(ImageError::Full),
            (_, Some(SIGABRT)) => Err(ImageError::Unsuitable(format!(
                "be compressed with {packed} so that it can be unpacked within 1 GiB of memory"
            ))),
            _ => Err(ImageError::Host(format!("unpacking ended with {status}: {words}"))),
        }
    }
}

/// The process' whole work; returns its exit status, and the reason goes to standard error.
pub fn help(compression: &str, [from, to]: [i32; 2], room: u64) -> i32 {
    let Some(compression) = Compression::ALL.into_iter().find(|known| known.as_str() == compression) else {
        eprintln!("{compression} is not known");
        return 1;
    };
    let opened = File::open(format!("/proc/self/fd/{from}"))
        .and_then(|from| Ok((from, File::options().write(true).open(format!("/proc/self/fd/{to}"))?)));
    // It is at wherever who lent it has left it.
    let opened = opened.map(|(from, to)| (FromStart { file: from, at: 0 }, to));
    let (from, to) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            eprintln!("{error}");
            return 1;
        }
    };
    // Where the kernel has no Landlock the launcher's other layers hold.
    if let Err(error) = see_nothing() {
        eprintln!("{error}");
        return 1;
    }
    let length = from.file.metadata().map_or(0, |found| found.len());
    match unpack(compression, from, &to, room, move |at| tell(at, length)) {
        Ok(()) => 0,
        Err(Failed::Full) => FULL,
        Err(Failed::Writing(error)) if error.kind() == io::ErrorKind::StorageFull => FULL,
        Err(Failed::Writing(error)) => {
            eprintln!("{error}");
            1
        }
        Err(Failed::Reading(error)) => {
            eprintln!("{error}");
            DAMAGED
        }
    }
}

/// From here on no file is opened by its name, and nobody is connected to.
fn see_nothing() -> Result<(), landlock::RulesetError> {
    let rules = Ruleset::default().handle_access(AccessFs::from_all(ABI::V6))?;
    rules.handle_access(AccessNet::from_all(ABI::V6))?.create()?.restrict_self().map(drop)
}

/// As `qemu-img -p` says it.
fn tell(at: u64, length: u64) {
    let hundredths = u128::from(at) * 10_000 / u128::from(length.max(1));
    let mut out = io::stdout();
    // Who does not listen any more is about to end this.
    let _ = writeln!(out, "({}.{:02}/100%)", hundredths / 100, hundredths % 100).and_then(|()| out.flush());
}

#[derive(Debug)]
enum Failed {
    Reading(io::Error),
    Writing(io::Error),
    Full,
}

fn unpack(
    compression: Compression,
    from: impl Read + 'static,
    to: &File,
    room: u64,
    tell: impl FnMut(u64) + 'static,
) -> Result<(), Failed> {
    let from = BufReader::with_capacity(PIECE, Counted { from, at: 0, last: 0, tell });
    let mut decoder: Box<dyn Read> = match compression {
        Compression::Xz => Box::new(lzma_rust2::XzReader::new(from, true)),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(from)),
        Compression::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(from)),
        Compression::Zstd => Box::new(Frames { from, decoder: FrameDecoder::new(), within: false }),
    };
    let (mut piece, mut at, mut written) = (vec![0; PIECE], 0, 0);
    loop {
        let read = fill(&mut decoder, &mut piece).map_err(Failed::Reading)?;
        if read == 0 {
            break;
        }
        let data = &piece[..read];
        // The rest is a hole.
        if data.iter().any(|byte| *byte != 0) {
            written += read as u64;
            if written > room {
                return Err(Failed::Full);
            }
            to.write_all_at(data, at).map_err(Failed::Writing)?;
        }
        at += read as u64;
        if at > LARGEST {
            let words = format!("there are more than {} GiB in it", LARGEST >> 30);
            return Err(Failed::Reading(io::Error::other(words)));
        }
    }
    to.set_len(at).map_err(Failed::Writing)
}

/// As much as there is.
fn fill(from: &mut impl Read, piece: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < piece.len() {
        match from.read(&mut piece[filled..]) {
            Ok(0) => break,
            Ok(more) => filled += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// A file that is read from its beginning, wherever others of its holders are in it.
struct FromStart {
    file: File,
    at: u64,
}

impl Read for FromStart {
    fn read(&mut self, piece: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(piece, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

/// Tells how much of it is read.
struct Counted<R, F> {
    from: R,
    at: u64,
    last: u64,
    tell: F,
}

/// Between two of them.
const EACH: u64 = 4 << 20;

impl<R: Read, F: FnMut(u64)> Read for Counted<R, F> {
    fn read(&mut self, piece: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(piece)?;
        self.at += read as u64;
        if self.at - self.last >= EACH {
            self.last = self.at;
            (self.tell)(self.at);
        }
        Ok(read)
    }
}

/// A zstd file is one frame after another, with what pzstd and others note between them.
struct Frames<R> {
    from: R,
    decoder: FrameDecoder,
    /// In the middle of one.
    within: bool,
}

impl<R: BufRead> Frames<R> {
    /// False at the end.
    fn begin(&mut self) -> io::Result<bool> {
        while !self.from.fill_buf()?.is_empty() {
            match self.decoder.reset(&mut self.from) {
                Ok(()) => {
                    self.within = true;
                    return Ok(true);
                }
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                    io::copy(&mut (&mut self.from).take(length.into()), &mut io::sink())?;
                }
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        Ok(false)
    }
}

impl<R: BufRead> Read for Frames<R> {
    fn read(&mut self, piece: &mut [u8]) -> io::Result<usize> {
        while self.within || self.begin()? {
            while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                let upto = BlockDecodingStrategy::UptoBytes(piece.len());
                self.decoder.decode_blocks(&mut self.from, upto).map_err(io::Error::other)?;
            }
            let read = self.decoder.read(piece)?;
            if read > 0 {
                return Ok(read);
            }
            let (said, found) = (self.decoder.get_checksum_from_data(), self.decoder.get_calculated_checksum());
            if said.is_some() && said != found {
                return Err(io::Error::other("its checksum does not match"));
            }
            self.within = false;
        }
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// Some data, a hole, and an end that fills no piece.
    fn content() -> Vec<u8> {
        let mut content: Vec<u8> = (0..200_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        content.extend(vec![0; 3 << 20]);
        content.extend(b"the end");
        content
    }

    /// By the program that people use.
    fn packed(line: &str) -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("x"), content()).unwrap();
        let done = Command::new("sh").args(["-ec", line]).current_dir(dir.path()).output().unwrap();
        assert!(done.status.success(), "{line}: {}", String::from_utf8_lossy(&done.stderr));
        done.stdout
    }

    fn unpacked(compression: Compression, packed: Vec<u8>, room: u64) -> Result<File, Failed> {
        let to = tempfile::tempfile().unwrap();
        unpack(compression, io::Cursor::new(packed), &to, room, |_| ()).map(|()| to)
    }

    const ROOM: u64 = 1 << 30;

    #[test]
    fn what_was_packed_comes_out_again_with_its_holes() {
        use std::os::unix::fs::MetadataExt;
        for (compression, line) in [
            (Compression::Xz, "xz -c x"),
            (Compression::Xz, "head -c 100000 x > a; tail -c +100001 x > b; xz -c a; xz -c b"),
            (Compression::Gzip, "gzip -c x"),
            (Compression::Gzip, "head -c 100000 x > a; tail -c +100001 x > b; gzip -c a; gzip -c b"),
            (Compression::Zstd, "zstd -q -c x"),
            // Between its frames pzstd notes how long they are, in frames to be skipped.
            (Compression::Zstd, "pzstd -q -p 2 -c x"),
            (Compression::Bzip2, "bzip2 -c x"),
            (Compression::Bzip2, "head -c 100000 x > a; tail -c +100001 x > b; bzip2 -c a; bzip2 -c b"),
        ] {
            let file = unpacked(compression, packed(line), ROOM).unwrap_or_else(|why| panic!("{line}: {why:?}"));
            let mut found = Vec::new();
            (&file).read_to_end(&mut found).unwrap();
            assert!(found == content(), "{line}: {} bytes", found.len());
            assert!(file.metadata().unwrap().blocks() * 512 < 2 << 20, "{line}: the hole is filled");
        }
    }

    #[test]
    fn no_file_is_opened_by_its_name_any_more() {
        // It holds for the thread alone.
        let there = std::thread::spawn(|| {
            see_nothing().unwrap();
            [File::open("/etc/passwd"), File::create("/tmp/qherd-test-unpack")].map(|opened| opened.unwrap_err().kind())
        });
        assert_eq!(there.join().unwrap(), [io::ErrorKind::PermissionDenied; 2]);
        File::open("/etc/passwd").unwrap();
    }

    #[test]
    fn what_is_cut_or_altered_is_damaged_and_what_is_too_much_is_refused() {
        for (compression, line) in [
            (Compression::Xz, "xz -c x"),
            (Compression::Gzip, "gzip -c x"),
            (Compression::Zstd, "zstd -q --check -c x"),
            (Compression::Bzip2, "bzip2 -c x"),
        ] {
            let whole = packed(line);
            for length in [whole.len() - 1, whole.len() / 2, 20] {
                let cut = unpacked(compression, whole[..length].to_vec(), ROOM);
                assert!(matches!(cut, Err(Failed::Reading(_))), "{line} cut at {length}");
            }
            let mut altered = whole.clone();
            altered[whole.len() / 2] ^= 0x40;
            assert!(matches!(unpacked(compression, altered, ROOM), Err(Failed::Reading(_))), "{line} altered");
            assert!(matches!(unpacked(compression, whole, 100_000), Err(Failed::Full)), "{line}");
        }
    }
}

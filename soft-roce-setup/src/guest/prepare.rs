//! What a guest boots from, made once for each kernel: its image without compression, and the modules
//! that its first file system holds, without compression too. Emulated, both would take seconds.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use sha2::{Digest, Sha256};

use super::modules::{Dependencies, name_of};
use crate::artifacts::{Artifacts, KernelArtifacts};
use crate::context::Context;
use crate::enter::Enter;

/// Changes whenever what is made here changes.
const FORMAT: &str = "guest-2";

/// What the guest's init loads, with all that they need, before it mounts anything.
const MODULES: &[&str] = &[
    "9pnet_virtio",
    "9p",
    "overlay",
    "virtio_blk",
    "dummy",
    "ib_uverbs",
    "rdma_ucm",
    "udp_tunnel",
    "ip6_udp_tunnel",
];
/// The stock rxe, for a kernel that has no module of ours.
const STOCK_RXE: &str = "rdma_rxe";

/// A kernel ready to boot.
#[derive(Debug, Clone)]
pub struct GuestKernel {
    /// What QEMU loads.
    pub image: PathBuf,
    /// Modules in the order in which they load.
    pub modules: Vec<PathBuf>,
    /// The root's static busybox.
    pub busybox: PathBuf,
}

/// The kernel of `artifacts`, ready to boot; made if this is its first guest.
pub fn kernel(context: &Context, artifacts: &Artifacts) -> Result<GuestKernel> {
    let kernel = &artifacts.kernel;
    let own_rxe = kernel.emm.join("rdma_rxe.ko").exists();
    let dep_file = kernel.modules.join("modules.dep");
    let text = fs::read_to_string(&dep_file).with_context(|| {
        format!(
            "cannot read {}: `soft-roce-setup build` writes it",
            dep_file.display()
        )
    })?;
    let dependencies = Dependencies::parse(&text);
    let mut wanted = MODULES.to_vec();
    if !own_rxe {
        wanted.push(STOCK_RXE);
    }
    let order = dependencies.load_order(&wanted)?;
    let place =
        context
            .cache
            .path("guest")
            .join(format!("{}-{}", kernel.version, key(kernel, &order)?));
    if !place.is_dir() {
        make(context, artifacts, &order, &place)?;
    }
    let image = place.join("vmlinux");
    Ok(GuestKernel {
        image: if image.exists() {
            image
        } else {
            kernel.vmlinuz.clone()
        },
        modules: order
            .iter()
            .map(|path| place.join(format!("{}.ko", name_of(path))))
            .collect(),
        busybox: artifacts.root.join("usr/bin/busybox"),
    })
}

fn key(kernel: &KernelArtifacts, order: &[&str]) -> Result<String> {
    let meta = fs::metadata(&kernel.vmlinuz)
        .with_context(|| format!("cannot read the kernel {}", kernel.vmlinuz.display()))?;
    let mut hash = Sha256::new();
    hash.update(format!(
        "{FORMAT} {} {} {} {order:?}",
        kernel.version,
        meta.len(),
        meta.mtime()
    ));
    let digest = hash.finalize();
    Ok(digest[..6]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

/// Makes the files of a kernel beside their place and renames them when they are complete: two processes
/// that start at once each make them, and one wins. In one process the caller lets one in at a time.
fn make(context: &Context, artifacts: &Artifacts, order: &[&str], place: &Path) -> Result<()> {
    let kernel = &artifacts.kernel;
    let step = context
        .ui
        .step(format!("preparing kernel {} for booting", kernel.version));
    let name = format!("guest-{}-{}", kernel.version, std::process::id());
    let fresh = context.cache.path("tmp").join(name);
    crate::cache::remove_tree(&fresh)?;
    fs::create_dir_all(&fresh).with_context(|| format!("cannot create {}", fresh.display()))?;
    let log = context.cache.fresh_log("guest-prepare");

    let mut script = String::from("set -e\n");
    for path in order {
        let target = format!("/mnt/out/{}.ko", name_of(path));
        let line = match path.rsplit('.').next() {
            Some("xz") => format!("xz -dc /mnt/in/{path} > {target}\n"),
            Some("zst") => format!("zstd -qdc /mnt/in/{path} > {target}\n"),
            Some("gz") => format!("gzip -dc /mnt/in/{path} > {target}\n"),
            _ => format!("cp /mnt/in/{path} {target}\n"),
        };
        script.push_str(&line);
    }
    if let Some(payload) = payload(&kernel.vmlinuz)? {
        let file = fresh.join("payload");
        fs::write(&file, payload.bytes)
            .with_context(|| format!("cannot write {}", file.display()))?;
        script.push_str(&format!(
            "{} /mnt/out/payload > /mnt/out/vmlinux\nrm /mnt/out/payload\n",
            payload.unpack
        ));
    }
    Enter::new(&artifacts.root)
        .bind(&fresh, "/mnt/out")
        .bind_ro(&kernel.modules, "/mnt/in")
        .cmd("/bin/sh")
        .args(["-c", &script])
        .run(&log, &step)?;
    let image = fresh.join("vmlinux");
    if image.exists() && !is_elf(&image) {
        fs::remove_file(&image).with_context(|| format!("cannot remove {}", image.display()))?;
    }
    let parent = place.parent().context("a place has a parent")?;
    fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
    match fs::rename(&fresh, place) {
        Ok(()) => {}
        Err(_) if place.is_dir() => crate::cache::remove_tree(&fresh)?,
        Err(error) => bail!("cannot rename {}: {error}", fresh.display()),
    }
    step.done();
    Ok(())
}

fn is_elf(path: &Path) -> bool {
    use std::io::Read;
    let mut magic = [0; 4];
    fs::File::open(path)
        .and_then(|mut file| file.read_exact(&mut magic))
        .is_ok()
        && &magic == b"\x7fELF"
}

/// The compressed kernel inside a bzImage.
struct Payload {
    bytes: Vec<u8>,
    unpack: &'static str,
}

/// Finds it, or nothing if the image is of another kind: then the guest unpacks it itself.
///
/// The fields are those of the kernel's boot protocol (Documentation/arch/x86/boot.rst).
fn payload(image: &Path) -> Result<Option<Payload>> {
    let bytes =
        fs::read(image).with_context(|| format!("cannot read the kernel {}", image.display()))?;
    let word = |at: usize| {
        bytes
            .get(at..at + 4)
            .and_then(|field| field.try_into().ok())
            .map(u32::from_le_bytes)
            .map(|word| word as usize)
    };
    let (Some(setup), Some(offset), Some(length)) = (bytes.get(0x1f1), word(0x248), word(0x24c))
    else {
        return Ok(None);
    };
    if bytes.get(0x202..0x206) != Some(b"HdrS".as_slice()) {
        return Ok(None);
    }
    let start = (usize::from(*setup) + 1) * 512 + offset;
    let Some(whole) = start
        .checked_add(length)
        .and_then(|end| bytes.get(start..end))
    else {
        return Ok(None);
    };
    // The last four bytes are the unpacked length: gzip's own, or put behind what the others make.
    let bare = &whole[..whole.len().saturating_sub(4)];
    let (unpack, packed) = match whole {
        [0x28, 0xb5, 0x2f, 0xfd, ..] => ("zstd -qdc", bare),
        [0xfd, b'7', b'z', b'X', b'Z', ..] => ("xz -dc --single-stream", bare),
        [0x1f, 0x8b, ..] => ("gzip -dc", whole),
        _ => return Ok(None),
    };
    Ok(Some(Payload {
        bytes: packed.to_vec(),
        unpack,
    }))
}

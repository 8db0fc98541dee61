//! Tests of what is taken for a cache, what is removed, and who waits for whom.

use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

use super::place::MARK_TEXT;
use super::*;
use crate::exit::{Coded, USAGE};

fn new() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn put(dir: &Path, path: &str, text: &str) {
    let path = dir.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn stamp(key: char) -> String {
    let key: String = std::iter::repeat_n(key, 32).collect();
    format!(r#"{{"key": "{key}", "seconds": 1.5, "made": 1764000000}}"#)
}

/// All paths below a directory, with what is in the files and where links point to.
fn tree(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let meta = path.symlink_metadata().unwrap();
        if meta.is_dir() {
            all.extend(tree(&path));
        }
        let what = if meta.is_file() {
            fs::read(&path).unwrap()
        } else if meta.is_symlink() {
            fs::read_link(&path)
                .unwrap()
                .into_os_string()
                .into_encoded_bytes()
        } else {
            Vec::new()
        };
        all.insert(path, what);
    }
    all
}

fn refusal(dir: &Path) -> String {
    let error = Cache::locate(Some(dir)).expect_err("it is not a cache's");
    let coded = error.downcast_ref::<Coded>().expect("a status of its own");
    assert_eq!(coded.code, USAGE);
    assert!(coded.message.contains("--cache DIR"), "{}", coded.message);
    coded.message.clone()
}

fn ui() -> Ui {
    Ui::new(false)
}

#[test]
fn nothing_is_made_before_the_first_lock() {
    let dir = new();
    let place = dir.path().join("a/b");
    let cache = Cache::locate(Some(&place)).unwrap();
    assert!(!cache.exists().unwrap());
    assert!(!dir.path().join("a").exists());
    let lock = cache.lock_shared(&ui()).unwrap();
    assert!(cache.exists().unwrap());
    assert_eq!(fs::read_to_string(place.join(MARK)).unwrap(), MARK_TEXT);
    assert!(MARK_TEXT.starts_with("Signature: 8a477f597d28d172789f06886806bc55\n"));
    drop(lock);
    Cache::locate(Some(&place)).unwrap();
}

#[test]
fn a_strangers_directory_is_refused_and_stays_as_it_is() {
    let dir = new();
    let project = dir.path();
    put(project, "vendor/crate/lib.rs", "mine");
    put(project, "target/release/x", "mine");
    put(project, "tmp/x", "mine");
    put(project, "root/x", "mine");
    let before = tree(project);
    refusal(project);
    // Cargo's mark is not ours.
    put(
        project,
        MARK,
        "Signature: 8a477f597d28d172789f06886806bc55\n# by cargo\n",
    );
    refusal(project);
    fs::remove_file(project.join(MARK)).unwrap();
    // A stamp of ours beside files that are not.
    put(project, "vendor/stamp.json", &stamp('a'));
    put(project, "root/stamp.json", &stamp('a'));
    put(project, "src/main.rs", "mine");
    assert!(refusal(project).contains("`src`"));
    for path in ["vendor/stamp.json", "root/stamp.json", "src/main.rs", "src"] {
        remove_tree(&project.join(path)).unwrap();
    }
    assert_eq!(tree(project), before);
    // By a link, and by a path that goes up.
    let other = new();
    symlink(project, other.path().join("link")).unwrap();
    refusal(&other.path().join("link"));
    refusal(&other.path().join("link/../../").join(project));
    assert_eq!(tree(project), before);
}

#[test]
fn names_alone_make_no_old_cache() {
    for name in ["tmp", "target", "vendor", "root", "logs", "downloads"] {
        let dir = new();
        put(dir.path(), &format!("{name}/file"), "mine");
        refusal(dir.path());
    }
    // What is not a stamp, or a stamp where no step left one.
    let dir = new();
    put(
        dir.path(),
        "root/stamp.json",
        r#"{"key": "v1", "seconds": 1, "made": 2}"#,
    );
    refusal(dir.path());
    let dir = new();
    put(dir.path(), "target/stamp.json", &stamp('a'));
    refusal(dir.path());
    // One step's folder has its stamp, the other one has none.
    let dir = new();
    put(dir.path(), "userland/stamp.json", &stamp('a'));
    put(dir.path(), "vendor/lib.rs", "mine");
    refusal(dir.path());
    // A stamp behind a link.
    let (dir, other) = (new(), new());
    put(other.path(), "stamp.json", &stamp('a'));
    symlink(other.path(), dir.path().join("root")).unwrap();
    refusal(dir.path());
}

#[test]
fn homes_and_the_root_are_refused() {
    refusal(Path::new("/"));
    refusal(Path::new("/usr/.."));
    let home = new();
    // Also with the mark, which a restored backup may have brought.
    put(home.path(), MARK, MARK_TEXT);
    let real = home.path().canonicalize().unwrap();
    assert!(place::look(&real, std::slice::from_ref(&real)).is_err());
    assert!(place::look(&real, &[]).is_ok());
    for home in place::homes() {
        refusal(&home);
    }
    assert!(place::homes().contains(&PathBuf::from("/root")));
}

#[test]
fn what_can_be_no_directory_is_refused() {
    let dir = new();
    put(dir.path(), "file", "x");
    assert!(refusal(&dir.path().join("file")).contains("no directory"));
    refusal(&dir.path().join("file/below"));
    symlink("/no/such/place", dir.path().join("dangling")).unwrap();
    assert!(refusal(&dir.path().join("dangling")).contains("link to nowhere"));
    refusal(&dir.path().join("dangling/sub"));
    refusal(&dir.path().join("not-there/../x"));
}

#[test]
fn an_old_cache_is_recognised_and_marked() {
    let dir = new();
    put(dir.path(), "lock", "123");
    put(dir.path(), "root/stamp.json", &stamp('a'));
    put(dir.path(), "root/tree/etc/hostname", "guest");
    put(dir.path(), "kernels/7.3/stamp.json", &stamp('b'));
    put(dir.path(), "logs/root.log", "$ x");
    put(dir.path(), "tmp/half/file", "x");
    let before = tree(dir.path());
    let cache = Cache::locate(Some(dir.path())).unwrap();
    assert!(cache.exists().unwrap());
    assert_eq!(tree(dir.path()), before, "looking changes nothing");
    let lock = cache.lock_exclusive(&ui()).unwrap();
    assert_eq!(fs::read_to_string(cache.path(MARK)).unwrap(), MARK_TEXT);
    assert!(
        !cache.path("lock").exists(),
        "the old lock locks nothing any more"
    );
    assert!(cache.stamp("root").is_some());
    cache.sweep(&lock).unwrap();
    assert_eq!(fs::read_dir(cache.path("tmp")).unwrap().count(), 0);
    drop(lock);
    // What a first run left that failed before its first step was done.
    let dir = new();
    put(dir.path(), "lock", "123");
    put(dir.path(), "logs/root.log", "$ mmdebstrap");
    fs::create_dir(dir.path().join("tmp")).unwrap();
    Cache::locate(Some(dir.path())).unwrap();
    put(dir.path(), "logs/mine.log", "not ours");
    refusal(dir.path());
}

#[test]
fn an_old_cache_in_use_is_waited_for() {
    let dir = new();
    put(dir.path(), "lock", "123");
    put(dir.path(), "root/stamp.json", &stamp('a'));
    let user = fs::File::open(dir.path().join("lock")).unwrap();
    rustix::fs::flock(&user, rustix::fs::FlockOperation::LockShared).unwrap();
    let cache = Cache::locate(Some(dir.path())).unwrap();
    let (locked, told) = mpsc::channel();
    let waits = thread::spawn(move || {
        let lock = cache.lock_exclusive(&ui()).unwrap();
        locked.send(()).unwrap();
        drop(lock);
    });
    assert!(told.recv_timeout(Duration::from_millis(500)).is_err());
    drop(user);
    told.recv_timeout(Duration::from_secs(20)).unwrap();
    waits.join().unwrap();
}

#[test]
fn clean_removes_the_cache_whole_and_nothing_behind_a_link() {
    let (dir, outside) = (new(), new());
    put(outside.path(), "precious", "x");
    let cache = Cache::locate(Some(&dir.path().join("cache"))).unwrap();
    let lock = cache.lock_exclusive(&ui()).unwrap();
    put(cache.dir(), "downloads/a.deb", "x");
    put(cache.dir(), "forky/tree/x", "x");
    put(cache.dir(), "whatever/came/later", "x");
    symlink(outside.path(), cache.path("kernels")).unwrap();
    fs::remove_dir(cache.path("tmp")).unwrap();
    symlink(outside.path(), cache.path("tmp")).unwrap();
    assert!(cache.remove(&lock, "kernels/precious").is_err());
    drop(lock);
    assert!(
        cache.lock_exclusive(&ui()).is_err(),
        "nothing is built through a link"
    );
    let lock = cache.lock_to_clean(&ui()).unwrap();
    cache.sweep(&lock).unwrap();
    assert!(cache.path("tmp").is_dir() && !cache.path("tmp").is_symlink());
    cache.clear(&lock, &["downloads"]).unwrap();
    assert_eq!(
        tree(cache.dir()).len(),
        3,
        "the mark, the folder and the file kept"
    );
    cache.clear(&lock, &[]).unwrap();
    assert!(!cache.dir().exists());
    assert_eq!(fs::read(outside.path().join("precious")).unwrap(), b"x");
    assert!(dir.path().exists());
}

#[test]
fn an_interrupted_clean_leaves_a_cache() {
    let dir = new();
    // It stopped before the mark went, or while a new one was being written.
    for text in [MARK_TEXT, &MARK_TEXT[..40], ""] {
        put(dir.path(), MARK, text);
        let cache = Cache::locate(Some(dir.path())).unwrap();
        drop(cache.lock_shared(&ui()).unwrap());
        assert_eq!(
            fs::read_to_string(dir.path().join(MARK)).unwrap(),
            MARK_TEXT
        );
        let lock = cache.lock_exclusive(&ui()).unwrap();
        cache.clear(&lock, &[]).unwrap();
    }
}

#[test]
fn who_waits_for_a_cache_that_is_cleaned_gets_a_new_one() {
    let dir = new();
    let cache = Cache::locate(Some(&dir.path().join("cache"))).unwrap();
    let lock = cache.lock_exclusive(&ui()).unwrap();
    let (locked, told) = mpsc::channel();
    let other = cache.clone();
    let waits = thread::spawn(move || {
        let lock = other.lock_shared(&ui()).unwrap();
        locked.send(()).unwrap();
        lock
    });
    assert!(
        told.recv_timeout(Duration::from_millis(500)).is_err(),
        "it has to wait"
    );
    cache.clear(&lock, &[]).unwrap();
    drop(lock);
    told.recv_timeout(Duration::from_secs(20)).unwrap();
    assert!(cache.exists().unwrap());
    let shared = waits.join().unwrap();
    // It is locked for the others too.
    let same = rustix::fs::flock(
        fs::File::open(cache.path(MARK)).unwrap(),
        rustix::fs::FlockOperation::NonBlockingLockExclusive,
    );
    assert!(same.is_err());
    drop(shared);
}

#[test]
#[should_panic(expected = "others use")]
fn nothing_is_removed_under_a_shared_lock() {
    let dir = new();
    let cache = Cache::locate(Some(dir.path())).unwrap();
    let lock = cache.lock_shared(&ui()).unwrap();
    let _ = cache.sweep(&lock);
}

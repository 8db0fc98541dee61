//! The guest's channels: threads that read them, and where their bytes go.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

/// Where a channel's bytes go.
pub type Writer = Box<dyn Write + Send>;

/// The end of a channel, which jobs change.
pub struct Sink {
    /// Where the bytes go.
    pub writer: Writer,
    /// How many came.
    pub bytes: u64,
    /// When the last one came.
    pub last: Instant,
    /// Why the writer refused some: what came then is lost.
    pub failed: Option<std::io::Error>,
}

impl Sink {
    /// One that throws away.
    pub fn new() -> Arc<Mutex<Self>> {
        Arc::new(Mutex::new(Self {
            writer: Box::new(std::io::sink()),
            bytes: 0,
            last: Instant::now(),
            failed: None,
        }))
    }
}

/// The sink, also after a thread that held it has panicked.
pub fn lock(sink: &Mutex<Sink>) -> MutexGuard<'_, Sink> {
    sink.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the guest says.
pub enum Event {
    /// A line of the control channel.
    Ctl(String),
    /// A line of the channel on which commands ask what concerns both hosts.
    Host(String),
    /// A line of the kernel's log.
    Console(String),
    /// The machine is gone.
    Closed,
}

/// Sends the lines of a channel, and writes them to `log`.
pub fn follow_lines(
    mut from: UnixStream,
    mut log: Option<File>,
    send: Sender<Event>,
    wrap: fn(String) -> Event,
) {
    thread::spawn(move || {
        let mut rest = Vec::new();
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            for byte in &buffer[..count] {
                match byte {
                    b'\n' => {
                        let line = String::from_utf8_lossy(&rest).into_owned();
                        rest.clear();
                        if let Some(log) = &mut log {
                            // A full disk must not end a guest that works.
                            let _ = writeln!(log, "{line}");
                        }
                        if send.send(wrap(line)).is_err() {
                            return;
                        }
                    }
                    b'\r' => {}
                    byte => rest.push(*byte),
                }
            }
        }
        if !rest.is_empty() {
            let line = String::from_utf8_lossy(&rest).into_owned();
            if let Some(log) = &mut log {
                let _ = writeln!(log, "{line}");
            }
            let _ = send.send(wrap(line));
        }
        let _ = send.send(Event::Closed);
    });
}

/// Copies a channel's bytes to its sink.
pub fn copy_to(mut from: UnixStream, sink: Arc<Mutex<Sink>>) {
    thread::spawn(move || {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            let mut sink = lock(&sink);
            let written = sink.writer.write_all(&buffer[..count]);
            if let Err(error) = written.and_then(|()| sink.writer.flush()) {
                sink.failed.get_or_insert(error);
            }
            sink.bytes += count as u64;
            sink.last = Instant::now();
        }
    });
}

//! What two hosts that run side by side have in common: what their commands ask of the tool (`emm-host`), how far each one is, and
//! which of them ended both.
//!
//! A guest's request is a line `JOB.PROCESS VERB WORDS` on its channel "host", the answer a line `JOB.PROCESS STATUS TEXT`. A request
//! of a job that is over has nobody who waits for its answer, and counts for nothing.

use std::collections::{BTreeMap, VecDeque};
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Two hosts' common state.
#[derive(Debug)]
pub struct Exchange(Mutex<State>);

#[derive(Debug)]
struct State {
    hosts: [Host; 2],
    /// Who waits at each barrier, by host: the requests to be answered.
    barriers: BTreeMap<String, [VecDeque<String>; 2]>,
    /// Which host was the first that ended both.
    ended_by: Option<usize>,
    /// Whether nobody wants either of them any more.
    closed: bool,
    /// When one of them was heard of last.
    heard: Instant,
}

#[derive(Debug, Default)]
struct Host {
    answers: Option<UnixStream>,
    /// The number of its command that runs or ran last.
    job: u32,
    /// How its command ended, if it has.
    ended: Option<String>,
    /// Whether its power is to be cut.
    cut: bool,
    /// Whether it is off.
    dark: bool,
    /// Who waits for its power to be cut, or for it to be up again: hosts and their requests.
    switching: Vec<(usize, String)>,
}

impl Exchange {
    /// For two hosts that are about to boot.
    pub fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(State {
            hosts: [Host::default(), Host::default()],
            barriers: BTreeMap::new(),
            ended_by: None,
            closed: false,
            heard: Instant::now(),
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Both are given a command: nobody waits, and none has ended.
    pub fn begin(&self) {
        let mut state = self.state();
        state.barriers.clear();
        state.heard = Instant::now();
        for host in &mut state.hosts {
            host.ended = None;
            host.cut = false;
            host.switching.clear();
        }
    }

    /// Nobody wants either of them any more.
    pub fn close(&self) {
        self.state().closed = true;
    }

    /// The first host that ended both, if one has.
    pub fn ended_by(&self) -> Option<usize> {
        self.state().ended_by
    }

    /// How far a host's command is, in words.
    pub fn progress(&self, host: usize) -> String {
        let state = self.state();
        if let Some(how) = &state.hosts[host].ended {
            return format!("host {}'s command had {how}", host + 1);
        }
        if state.hosts[host].dark {
            return format!("host {} was switched off", host + 1);
        }
        let waits = |(name, waiting): (&String, &[VecDeque<String>; 2])| {
            (!waiting[host].is_empty()).then(|| format!("`{name}`"))
        };
        let names: Vec<String> = state.barriers.iter().filter_map(waits).collect();
        let at = match names.is_empty() {
            true => String::new(),
            false => format!(", waiting at the barrier {}", names.join(", ")),
        };
        format!("host {}'s command was running{at}", host + 1)
    }
}

/// One host's side of what both have in common.
#[derive(Debug, Clone)]
pub struct Seat {
    /// Which host, from 0.
    pub index: usize,
    /// What both share.
    pub exchange: Arc<Exchange>,
}

impl Seat {
    /// The guest can be answered by `answers` now.
    pub fn connect(&self, answers: UnixStream) {
        self.exchange.state().hosts[self.index].answers = Some(answers);
    }

    /// Its command number `job` is about to run.
    pub fn runs(&self, job: u32) {
        self.exchange.state().hosts[self.index].job = job;
    }

    /// Its command has ended, in these words. Who waits for it is told.
    pub fn ended(&self, how: String) {
        let mut state = self.exchange.state();
        for waiting in state.barriers.values_mut() {
            waiting[self.index].clear();
        }
        state.hosts[self.index].ended = Some(how);
        state.tell_those_who_wait_for(self.index);
    }

    /// This host ends both. What the other one does therefore is not what ended them.
    pub fn end_both(&self) {
        self.exchange.state().ended_by.get_or_insert(self.index);
    }

    /// Whether the other host has ended both, or nobody wants them any more.
    pub fn is_over(&self) -> bool {
        let state = self.exchange.state();
        state.closed || state.ended_by.is_some_and(|by| by != self.index)
    }

    /// Whether its power is to be cut.
    pub fn is_cut(&self) -> bool {
        let state = self.exchange.state();
        state.hosts[self.index].cut && !state.hosts[self.index].dark
    }

    /// It is off. Who wanted that is told.
    pub fn is_dark(&self) {
        let mut state = self.exchange.state();
        for waiting in state.barriers.values_mut() {
            waiting[self.index].clear();
        }
        state.hosts[self.index].dark = true;
        state.switched(self.index);
    }

    /// It is up again. Who wanted that is told.
    pub fn is_lit(&self) {
        let mut state = self.exchange.state();
        state.hosts[self.index].dark = false;
        state.switched(self.index);
    }

    /// What becomes of it while it is off: whether it is to be switched on again, if that can be told yet.
    pub fn comes_back(&self) -> Option<bool> {
        let state = self.exchange.state();
        if !state.hosts[self.index].cut {
            return Some(true);
        }
        // Nobody is left who could switch it on.
        let other = &state.hosts[1 - self.index];
        (other.ended.is_some() || other.dark).then_some(false)
    }

    /// This host was heard of at `when`. Returns when one of both was last.
    pub fn heard(&self, when: Instant) -> Instant {
        let mut state = self.exchange.state();
        state.heard = state.heard.max(when);
        state.heard
    }

    /// Takes a request of the guest's.
    pub fn asked(&self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let Some((id, request)) = words.split_first() else {
            return;
        };
        let mut state = self.exchange.state();
        let job = id.split('.').next().and_then(|job| job.parse().ok());
        if job != Some(state.hosts[self.index].job) {
            return;
        }
        match *request {
            ["barrier", name] => state.arrive(self.index, name, id),
            // Who asked has been ended by a signal.
            ["leave"] => state.leave(self.index, id),
            ["power", "off", "1"] => state.switch(self.index, id, 0, true),
            ["power", "off", "2"] => state.switch(self.index, id, 1, true),
            ["power", "on", "1"] => state.switch(self.index, id, 0, false),
            ["power", "on", "2"] => state.switch(self.index, id, 1, false),
            _ => {
                let text = format!("2 the tool does not know `{line}`");
                state.answer(self.index, id, &text);
            }
        }
    }
}

impl State {
    fn arrive(&mut self, host: usize, name: &str, id: &str) {
        let waiting = self.barriers.entry(name.to_owned()).or_default();
        waiting[host].push_back(id.to_owned());
        if waiting.iter().all(|waiting| !waiting.is_empty()) {
            let met: Vec<Option<String>> = waiting.iter_mut().map(VecDeque::pop_front).collect();
            for (host, id) in met.into_iter().enumerate() {
                self.answer(host, &id.unwrap_or_default(), "0");
            }
        } else if self.hosts[1 - host].ended.is_some() {
            self.tell_those_who_wait_for(1 - host);
        }
    }

    /// The power of the host `target` is to be cut or to come back.
    fn switch(&mut self, host: usize, id: &str, target: usize, cut: bool) {
        let wanted = &mut self.hosts[target];
        let number = target + 1;
        let why = match &wanted.ended {
            Some(how) => Some(format!("host {number}'s command has {how}")),
            None if cut && wanted.dark => Some(format!("host {number} is off")),
            None if !cut && !wanted.dark => Some(format!("host {number} is on")),
            None => None,
        };
        match why {
            Some(why) => self.answer(host, id, &format!("1 {why}")),
            None => {
                wanted.cut = cut;
                wanted.switching.push((host, id.to_owned()));
            }
        }
    }

    fn switched(&mut self, target: usize) {
        for (host, id) in std::mem::take(&mut self.hosts[target].switching) {
            self.answer(host, &id, "0");
        }
    }

    fn leave(&mut self, host: usize, id: &str) {
        for waiting in self.barriers.values_mut() {
            waiting[host].retain(|other| other != id);
        }
    }

    /// The host `gone` comes to no barrier any more.
    fn tell_those_who_wait_for(&mut self, gone: usize) {
        let how = self.hosts[gone].ended.clone().unwrap_or_default();
        let other = 1 - gone;
        let mut answers = Vec::new();
        for (name, waiting) in &mut self.barriers {
            let text = format!(
                "1 nobody else comes to the barrier `{name}`: host {}'s command has {how}",
                gone + 1
            );
            answers.extend(waiting[other].drain(..).map(|id| (id, text.clone())));
        }
        for (id, text) in answers {
            self.answer(other, &id, &text);
        }
    }

    fn answer(&mut self, host: usize, id: &str, text: &str) {
        if let Some(answers) = &mut self.hosts[host].answers {
            // A guest that is gone needs none.
            let _ = writeln!(answers, "{id} {text}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};

    use super::*;

    struct Side {
        seat: Seat,
        guest: BufReader<UnixStream>,
    }

    impl Side {
        fn hears(&mut self) -> String {
            let mut line = String::new();
            self.guest.read_line(&mut line).unwrap();
            line.trim_end().to_owned()
        }
    }

    fn sides() -> [Side; 2] {
        let exchange = Exchange::new();
        [0, 1].map(|index| {
            let (host, guest) = UnixStream::pair().unwrap();
            let seat = Seat {
                index,
                exchange: Arc::clone(&exchange),
            };
            seat.connect(host);
            seat.runs(1);
            // What would block fails.
            guest.set_nonblocking(true).unwrap();
            let guest = BufReader::new(guest);
            Side { seat, guest }
        })
    }

    fn nothing(side: &mut Side) -> bool {
        side.guest.read_line(&mut String::new()).is_err()
    }

    #[test]
    fn a_barrier_opens_when_both_are_there_and_closes_again() {
        let [mut one, mut two] = sides();
        for round in 0..3 {
            one.seat.asked(&format!("1.{round} barrier x"));
            two.seat.asked("1.7 barrier other");
            assert!(nothing(&mut one) && nothing(&mut two));
            assert!(one.seat.exchange.progress(0).ends_with("barrier `x`"));
            two.seat.asked("1.8 barrier x");
            assert_eq!(one.hears(), format!("1.{round} 0"));
            assert_eq!(two.hears(), "1.8 0");
            one.seat.asked("1.9 barrier other");
            assert_eq!((one.hears(), two.hears()), ("1.9 0".into(), "1.7 0".into()));
        }
    }

    #[test]
    fn who_leaves_a_barrier_opens_none() {
        let [mut one, mut two] = sides();
        one.seat.asked("1.1 barrier x");
        one.seat.asked("1.1 leave");
        two.seat.asked("1.2 barrier x");
        assert!(nothing(&mut two));
        one.seat.asked("1.3 barrier x");
        assert_eq!((one.hears(), two.hears()), ("1.3 0".into(), "1.2 0".into()));
    }

    #[test]
    fn nobody_waits_for_a_command_that_has_ended() {
        let [mut one, mut two] = sides();
        one.seat.asked("1.1 barrier x");
        two.seat.ended("left with status 3".to_owned());
        let why = "1 nobody else comes to the barrier `x`: host 2's command has left with status 3";
        assert_eq!(one.hears(), format!("1.1 {why}"));
        one.seat.asked("1.2 barrier x");
        assert_eq!(one.hears(), format!("1.2 {why}"));
        assert_eq!(
            one.seat.exchange.progress(1),
            "host 2's command had left with status 3"
        );
        one.seat.exchange.begin();
        one.seat.asked("1.3 barrier x");
        assert!(nothing(&mut one), "the next command of host 2 may come");
        two.seat.asked("0.3 barrier x");
        assert!(nothing(&mut two), "a request of a command that is over");
    }

    #[test]
    fn power_goes_and_comes_back() {
        let [mut one, mut two] = sides();
        one.seat.asked("1.1 power on 2");
        assert_eq!(one.hears(), "1.1 1 host 2 is on");
        two.seat.asked("1.1 barrier x");
        one.seat.asked("1.2 power off 2");
        assert!(two.seat.is_cut() && !one.seat.is_cut() && nothing(&mut one));
        two.seat.is_dark();
        assert_eq!(one.hears(), "1.2 0");
        assert_eq!(two.seat.comes_back(), None);
        assert_eq!(one.seat.exchange.progress(1), "host 2 was switched off");
        one.seat.asked("1.3 barrier x");
        assert!(nothing(&mut one), "who waited there is gone");
        one.seat.asked("1.4 power off 2");
        assert_eq!(one.hears(), "1.4 1 host 2 is off");
        one.seat.asked("1.5 power on 2");
        assert_eq!(two.seat.comes_back(), Some(true));
        two.seat.is_lit();
        assert_eq!(one.hears(), "1.5 0");
        assert!(!two.seat.is_cut());
        two.seat.asked("1.2 barrier x");
        assert_eq!((one.hears(), two.hears()), ("1.3 0".into(), "1.2 0".into()));
    }

    #[test]
    fn nobody_switches_on_what_the_last_one_left_off() {
        let [mut one, two] = sides();
        one.seat.asked("1.2 power off 2");
        two.seat.is_dark();
        one.seat.ended("left with status 0".to_owned());
        assert_eq!(two.seat.comes_back(), Some(false));
        assert_eq!(one.hears(), "1.2 0");
        two.seat.ended("been switched off".to_owned());
        one.seat.asked("1.3 power on 2");
        assert_eq!(one.hears(), "1.3 1 host 2's command has been switched off");
    }

    #[test]
    fn what_is_no_request_is_answered_if_it_can_be() {
        let [mut one, _two] = sides();
        one.seat.asked("");
        one.seat.asked("1.5 dance");
        assert!(one.hears().starts_with("1.5 2 "));
        one.seat.asked("1.6 barrier a b");
        assert!(one.hears().starts_with("1.6 2 "));
    }

    #[test]
    fn the_first_that_ends_both_is_known() {
        let [one, two] = sides();
        assert_eq!(one.seat.exchange.ended_by(), None);
        two.seat.end_both();
        one.seat.end_both();
        assert_eq!(one.seat.exchange.ended_by(), Some(1));
        assert!(one.seat.is_over() && !two.seat.is_over());
    }
}

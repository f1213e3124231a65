//! Answers a member's request: who asks, whether it counts, and what this host's agent says to it.

use super::error::AskError;
use super::heard::{Heard, NotNew};
use super::question::{ASK_MAX_BYTES, Answer, Ask, Question};
use crate::failover::agent::run::Agent;
use crate::failover::agent::terms::Terms;
use crate::model::gtid::GtidPosition;
use crate::model::id::{Epoch, StoreName, WriterId};
use crate::model::member::{Member, is_text};
use crate::support::clock::UnixNanos;
use crate::support::lock::lock;
use crate::support::signature::SigningKey;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Maximum time that an agent takes for an answer: less than the asker waits.
const AGENT_LIMIT: Duration = Duration::from_millis(1500);
/// Maximum number of reasons in an answer, and of bytes of each.
const REASONS_MAX: usize = 8;
const REASON_MAX_BYTES: usize = 200;

/// The agent of a store on the host that is asked.
pub trait AskedAgent {
    /// Returns this host's name in the log.
    fn me(&self) -> &WriterId;
    fn key(&self) -> &SigningKey;
    /// Returns the members by the log, as it was last read here.
    fn members(&self) -> Vec<Member>;
    /// Promises to open nothing for a while; returns whether it does.
    fn promise(&self, by: &WriterId, epoch: Epoch) -> bool;
    fn look(&self);
    /// Returns why this host could not serve; none if it could.
    fn may_serve(&self) -> Result<(), String>;
    /// Returns why this host's database does not acknowledge, or lacks something up to a position.
    fn has_received(&self, position: &GtidPosition) -> Result<(), String>;
    /// Returns why this host would not become the primary if a person wanted it; empty if it would.
    fn why_not(&self) -> Vec<String>;
    /// Returns why this host does not serve as the primary of `epoch`; empty if it does. A watcher sees nobody
    /// served, for the reasons in `failed`.
    fn why_not_serving(&self, watcher: &WriterId, epoch: Epoch, failed: &[String]) -> Vec<String>;
    /// Returns how it was seen that customers were served in `epoch` a moment ago; none if it was not.
    fn saw_served(&self, epoch: Epoch) -> Option<String>;
    /// Begins a handover; returns why not, or none if nobody answered.
    fn hand_over(&self, to: &WriterId) -> Option<Vec<String>>;
    /// Returns why this host is not handing over to `to` any more, though it was asked; empty if it is.
    fn why_not_handing_over(&self, to: &WriterId) -> Vec<String>;
    fn keep_serving(&self);
    /// Becomes the primary because a person wants it; returns why not, or none if nobody answered.
    fn take_over(&self, terms: Terms) -> Option<Vec<String>>;
    /// Takes a person's word that a host is down; returns whether this host waits for that one, or none if nobody
    /// answered.
    fn attest(&self, host: &WriterId) -> Option<bool>;
}

impl AskedAgent for Agent {
    fn me(&self) -> &WriterId {
        self.me()
    }

    fn key(&self) -> &SigningKey {
        self.key()
    }

    fn members(&self) -> Vec<Member> {
        self.state().authority.members.clone()
    }

    fn promise(&self, by: &WriterId, epoch: Epoch) -> bool {
        self.promise(by, epoch, AGENT_LIMIT)
    }

    fn look(&self) {
        self.look();
    }

    fn may_serve(&self) -> Result<(), String> {
        self.may_serve()
    }

    fn has_received(&self, position: &GtidPosition) -> Result<(), String> {
        self.has_received(position)
    }

    fn why_not(&self) -> Vec<String> {
        self.why_not()
    }

    fn why_not_serving(&self, watcher: &WriterId, epoch: Epoch, failed: &[String]) -> Vec<String> {
        self.why_not_serving(watcher, epoch, failed)
    }

    fn saw_served(&self, epoch: Epoch) -> Option<String> {
        self.saw_served(epoch)
    }

    fn hand_over(&self, to: &WriterId) -> Option<Vec<String>> {
        let reasons = self.try_hand_over(to, AGENT_LIMIT)?;
        Some(reasons.iter().map(ToString::to_string).collect())
    }

    fn why_not_handing_over(&self, to: &WriterId) -> Vec<String> {
        self.why_not_handing_over(to)
    }

    fn keep_serving(&self) {
        self.keep_serving();
    }

    fn take_over(&self, terms: Terms) -> Option<Vec<String>> {
        let reasons = self.try_take_over(terms, AGENT_LIMIT)?;
        Some(reasons.iter().map(ToString::to_string).collect())
    }

    fn attest(&self, host: &WriterId) -> Option<bool> {
        self.attest(host, AGENT_LIMIT)
    }
}

/// Answers requests of members. It remembers those of persons, so there is one for all requests at a port.
pub struct Answerer {
    heard: Mutex<Heard>,
}

impl Answerer {
    /// `started`: when this process did.
    pub fn new(started: UnixNanos) -> Self {
        Self { heard: Mutex::new(Heard::new(started)) }
    }

    /// Answers a request for one of the stores whose agents `agents` finds. This takes up to two seconds.
    ///
    /// # Errors
    /// Nothing is done.
    pub fn answer(
        &self,
        bytes: &[u8],
        agents: impl Fn(&StoreName) -> Option<Arc<dyn AskedAgent>>,
        now: UnixNanos,
    ) -> Result<Vec<u8>, AskError> {
        if bytes.len() > ASK_MAX_BYTES {
            return Err(AskError::TooLarge);
        }
        let question = Question::parse(bytes).ok_or(AskError::Unreadable)?;
        // Whoever is no member learns nothing, not even which stores are here.
        let agent = agents(&question.store).ok_or(AskError::Stranger)?;
        let members = agent.members();
        let asker = members.iter().find(|member| member.name == *question.asker());
        let said = asker.and_then(|asker| question.said(&asker.key)).ok_or(AskError::Stranger)?;
        let may_ask = |asker: &Member| asker.may_serve() || (asker.may_watch() && said.ask.is_for_watchers());
        asker.filter(|asker| may_ask(asker)).ok_or(AskError::Stranger)?;
        if question.asked != *agent.me() {
            return Err(AskError::AnotherHost { asked: question.asked, me: agent.me().clone() });
        }
        if let Some(person) = said.ask.person() {
            self.hear(&question, person, said.at, now)?;
        }
        let answer = act(&*agent, question.asker(), &said.ask)?;
        answer.encode(&question, agent.key()).map_err(|_| AskError::Unreadable)
    }

    /// Takes a person's request, which counts once.
    fn hear(&self, question: &Question, person: &str, at: UnixNanos, now: UnixNanos) -> Result<(), AskError> {
        if !is_text(person) {
            return Err(AskError::Person);
        }
        let request = (question.store.clone(), question.asker().clone(), question.nonce);
        lock(&self.heard).take(request, at, now).map_err(|why| match why {
            NotNew::Time => AskError::NotNew,
            NotNew::Again => AskError::Again,
            NotNew::TooMany => AskError::TooMany,
        })?;
        tracing::info!(store = %question.store, member = %question.asker(), person, "a member asks, for a person, for a change of the primary");
        Ok(())
    }
}

fn act(agent: &dyn AskedAgent, asker: &WriterId, ask: &Ask) -> Result<Answer, AskError> {
    let refused = |reason: &str| Answer::Refused { reasons: vec![reason.to_owned()] };
    Ok(match ask {
        Ask::Promise { epoch } if agent.promise(asker, *epoch) => Answer::Done,
        Ask::Promise { .. } => refused("this host does not follow that primary at the moment"),
        Ask::Look => {
            agent.look();
            Answer::Done
        }
        Ask::Ready => match agent.may_serve() {
            Ok(()) => Answer::Done,
            Err(how) => Answer::Refused { reasons: shortened(vec![how]) },
        },
        Ask::Received { position } => match agent.has_received(position) {
            Ok(()) => Answer::Done,
            Err(how) => Answer::Refused { reasons: shortened(vec![how]) },
        },
        Ask::WouldTakeOver => match agent.why_not() {
            reasons if reasons.is_empty() => Answer::Done,
            reasons => Answer::Refused { reasons: shortened(reasons) },
        },
        Ask::Serves { epoch, failed } => match agent.why_not_serving(asker, *epoch, failed) {
            reasons if reasons.is_empty() => Answer::Done,
            reasons => Answer::Refused { reasons: shortened(reasons) },
        },
        Ask::SawNobodyServed { epoch } => match agent.saw_served(*epoch) {
            None => Answer::Done,
            Some(how) => Answer::Refused { reasons: shortened(vec![how]) },
        },
        Ask::HandOver { to, .. } => match agent.hand_over(to).ok_or(AskError::NoAgent)? {
            reasons if reasons.is_empty() => Answer::Done,
            reasons => Answer::Refused { reasons: shortened(reasons) },
        },
        Ask::TakeOver { reason, .. } if !is_text(reason) => refused("the reason is no text for the log"),
        Ask::TakeOver { person, reason, at } => {
            let (person, reason, at) = (person.clone(), reason.clone(), *at);
            let terms = Terms { person, reason, at, ..Terms::default() };
            match agent.take_over(terms).ok_or(AskError::NoAgent)? {
                reasons if reasons.is_empty() => Answer::Done,
                reasons => Answer::Refused { reasons: shortened(reasons) },
            }
        }
        Ask::Attest { host, .. } => match agent.attest(host).ok_or(AskError::NoAgent)? {
            true => Answer::Done,
            false => refused(
                "this host does not wait for that one; a word that it is down counts after the promotion",
            ),
        },
        Ask::HandsOver { to } => match agent.why_not_handing_over(to) {
            reasons if reasons.is_empty() => Answer::Done,
            reasons => Answer::Refused { reasons: shortened(reasons) },
        },
        Ask::KeepServing { .. } => {
            agent.keep_serving();
            Answer::Done
        }
    })
}

/// Returns reasons that fit into an answer.
fn shortened(mut reasons: Vec<String>) -> Vec<String> {
    reasons.truncate(REASONS_MAX);
    for reason in &mut reasons {
        reason.truncate(reason.floor_char_boundary(REASON_MAX_BYTES));
    }
    reasons
}

#[cfg(test)]
mod tests {
    use super::super::question::{Addressee, Asked};
    use super::*;
    use crate::model::member::May;

    const NOW: UnixNanos = UnixNanos(1_000_000_000_000);

    fn host(name: &str) -> WriterId {
        WriterId(name.into())
    }

    fn key(seed: u8) -> SigningKey {
        SigningKey::of(&[seed; 32])
    }

    fn shop() -> StoreName {
        StoreName::parse("shop").unwrap()
    }

    /// The agent of `shop` on host `b`, which notes what it was asked.
    struct Noted {
        me: WriterId,
        key: SigningKey,
        members: Vec<Member>,
        asked: Mutex<Vec<String>>,
    }

    impl AskedAgent for Noted {
        fn me(&self) -> &WriterId {
            &self.me
        }

        fn key(&self) -> &SigningKey {
            &self.key
        }

        fn members(&self) -> Vec<Member> {
            self.members.clone()
        }

        fn promise(&self, by: &WriterId, epoch: Epoch) -> bool {
            self.asked.lock().unwrap().push(format!("promise {by} {}", epoch.0));
            epoch == Epoch(1)
        }

        fn look(&self) {
            self.asked.lock().unwrap().push("look".into());
        }

        fn may_serve(&self) -> Result<(), String> {
            self.asked.lock().unwrap().push("may serve".into());
            Err("the gate's address is taken".into())
        }

        fn has_received(&self, position: &GtidPosition) -> Result<(), String> {
            self.asked.lock().unwrap().push(format!("received {position}"));
            Ok(())
        }

        fn why_not(&self) -> Vec<String> {
            vec!["this host does not follow".into(); 20]
        }

        fn why_not_serving(&self, watcher: &WriterId, epoch: Epoch, failed: &[String]) -> Vec<String> {
            let said = format!("{watcher} sees nobody served in epoch {}: {}", epoch.0, failed.join(", "));
            self.asked.lock().unwrap().push(said);
            Vec::new()
        }

        fn saw_served(&self, epoch: Epoch) -> Option<String> {
            (epoch == Epoch(1)).then(|| "customers were served 2 s ago".to_owned())
        }

        fn hand_over(&self, to: &WriterId) -> Option<Vec<String>> {
            self.asked.lock().unwrap().push(format!("hand over to {to}"));
            Some(if *to == host("a") { Vec::new() } else { vec!["ü".repeat(3000); 20] })
        }

        fn why_not_handing_over(&self, to: &WriterId) -> Vec<String> {
            if *to == host("a") { Vec::new() } else { vec!["the handover was cancelled".into()] }
        }

        fn keep_serving(&self) {
            self.asked.lock().unwrap().push("keep serving".into());
        }

        fn take_over(&self, terms: Terms) -> Option<Vec<String>> {
            let Terms { person, reason, at, .. } = terms;
            self.asked.lock().unwrap().push(format!("take over for {person}: {reason}, at {at:?}"));
            Some(Vec::new())
        }

        fn attest(&self, host: &WriterId) -> Option<bool> {
            self.asked.lock().unwrap().push(format!("{host} is down"));
            Some(*host == self.members[0].name)
        }
    }

    struct Desk {
        agent: Arc<Noted>,
        answerer: Answerer,
    }

    impl Desk {
        fn new() -> Self {
            let member = |name: &str, seed, may| Member::sample(name, key(seed).public(), &[may]);
            let members =
                vec![member("a", 1, May::Serve), member("b", 2, May::Serve), member("w", 3, May::Watch)];
            let agent = Noted { me: host("b"), key: key(2), members, asked: Mutex::default() };
            Self { agent: Arc::new(agent), answerer: Answerer::new(NOW.minus(Duration::from_hours(1))) }
        }

        fn answer(&self, question: &Question, now: UnixNanos) -> Result<Answer, AskError> {
            self.raw(&question.encode(), now).map(|bytes| {
                assert!(bytes.len() <= ASK_MAX_BYTES);
                Answer::read(&bytes, question, &key(2).public()).expect("an answer of b's")
            })
        }

        fn raw(&self, bytes: &[u8], now: UnixNanos) -> Result<Vec<u8>, AskError> {
            let agents =
                |store: &StoreName| (*store == shop()).then(|| self.agent.clone() as Arc<dyn AskedAgent>);
            self.answerer.answer(bytes, agents, now)
        }

        fn was_asked(&self) -> Vec<String> {
            std::mem::take(&mut *self.agent.asked.lock().unwrap())
        }
    }

    fn question_of(asker: &str, seed: u8, to: Addressee, ask: Ask) -> Question {
        Question::sign(to, &Asked { at: NOW, ask }, &host(asker), &key(seed)).unwrap()
    }

    fn to_b(nonce: u64) -> Addressee {
        Addressee { store: shop(), asked: host("b"), nonce }
    }

    fn question(nonce: u64, ask: Ask) -> Question {
        question_of("a", 1, to_b(nonce), ask)
    }

    fn take_over(reason: &str) -> Ask {
        Ask::TakeOver { person: "ops".into(), reason: reason.into(), at: None }
    }

    fn hand_over(to: &str) -> Ask {
        Ask::HandOver { to: host(to), person: "ops".into() }
    }

    #[test]
    fn a_member_is_answered() {
        let desk = Desk::new();
        let promise = |epoch| Ask::Promise { epoch: Epoch(epoch) };
        assert_eq!(desk.answer(&question(1, promise(1)), NOW), Ok(Answer::Done));
        assert!(matches!(desk.answer(&question(2, promise(2)), NOW), Ok(Answer::Refused { .. })));
        assert_eq!(desk.answer(&question(3, Ask::Look), NOW), Ok(Answer::Done));
        assert_eq!(desk.answer(&question(4, hand_over("a")), NOW), Ok(Answer::Done));
        let Ok(Answer::Refused { reasons }) = desk.answer(&question(5, hand_over("c")), NOW) else {
            panic!()
        };
        assert_eq!((reasons.len(), reasons[0].len()), (REASONS_MAX, REASON_MAX_BYTES));
        let keep = Ask::KeepServing { person: "ops".into() };
        assert_eq!(desk.answer(&question(6, keep), NOW), Ok(Answer::Done));
        assert_eq!(desk.answer(&question(7, take_over("no power")), NOW), Ok(Answer::Done));
        let down = |name| Ask::Attest { host: host(name), person: "ops".into() };
        assert_eq!(desk.answer(&question(8, down("a")), NOW), Ok(Answer::Done));
        assert!(matches!(desk.answer(&question(9, down("c")), NOW), Ok(Answer::Refused { .. })));
        let taken = Answer::Refused { reasons: vec!["the gate's address is taken".into()] };
        assert_eq!(desk.answer(&question(11, Ask::Ready), NOW), Ok(taken));
        let hands_over = |to| Ask::HandsOver { to: host(to) };
        assert_eq!(desk.answer(&question(12, hands_over("a")), NOW), Ok(Answer::Done));
        assert!(matches!(desk.answer(&question(13, hands_over("c")), NOW), Ok(Answer::Refused { .. })));
        let Ok(Answer::Refused { reasons }) = desk.answer(&question(14, Ask::WouldTakeOver), NOW) else {
            panic!("it would not");
        };
        assert_eq!(reasons.len(), REASONS_MAX);
        // What the log would not take is refused before the agent is asked.
        let lines = take_over("two\nlines");
        assert!(matches!(desk.answer(&question(10, lines), NOW), Ok(Answer::Refused { .. })));
        let asked = [
            "promise a 1",
            "promise a 2",
            "look",
            "hand over to a",
            "hand over to c",
            "keep serving",
            "take over for ops: no power, at None",
            "a is down",
            "c is down",
            "may serve",
        ];
        assert_eq!(desk.was_asked(), asked);
    }

    #[test]
    fn only_a_member_that_may_serve_is_heard_and_only_for_this_store_and_host() {
        let desk = Desk::new();
        let promise = Ask::Promise { epoch: Epoch(1) };
        let strangers = [
            ("another key", question_of("a", 9, to_b(1), promise.clone())),
            ("another member's name", question_of("a", 2, to_b(1), promise.clone())),
            ("who only watches", question_of("w", 3, to_b(1), promise.clone())),
            ("no member", question_of("x", 4, to_b(1), promise.clone())),
            (
                "a store that is not here",
                question_of(
                    "a",
                    1,
                    Addressee { store: StoreName::parse("blog").unwrap(), ..to_b(1) },
                    promise.clone(),
                ),
            ),
        ];
        for (what, question) in strangers {
            assert_eq!(desk.answer(&question, NOW), Err(AskError::Stranger), "{what}");
        }
        // A request for another store or host, sent here.
        let elsewhere = question_of("a", 1, Addressee { asked: host("c"), ..to_b(1) }, promise.clone());
        let turned = Question { asked: host("b"), ..elsewhere.clone() };
        assert_eq!(desk.answer(&turned, NOW), Err(AskError::Stranger));
        assert!(matches!(desk.answer(&elsewhere, NOW), Err(AskError::AnotherHost { .. })));
        let blog = Addressee { store: StoreName::parse("blog").unwrap(), ..to_b(1) };
        let turned = Question { store: shop(), ..question_of("a", 1, blog, promise) };
        assert_eq!(desk.answer(&turned, NOW), Err(AskError::Stranger));
        assert_eq!(desk.was_asked(), Vec::<String>::new());
    }

    #[test]
    fn a_watcher_is_heard_about_what_it_sees_and_about_nothing_else() {
        let desk = Desk::new();
        let serves = || Ask::Serves { epoch: Epoch(1), failed: vec!["http 503".into()] };
        assert_eq!(desk.answer(&question_of("w", 3, to_b(1), serves()), NOW), Ok(Answer::Done));
        assert_eq!(desk.answer(&question_of("w", 2, to_b(2), serves()), NOW), Err(AskError::Stranger));
        let seen = |epoch| Ask::SawNobodyServed { epoch: Epoch(epoch) };
        assert_eq!(desk.answer(&question_of("w", 3, to_b(3), seen(1)), NOW), Err(AskError::Stranger));
        assert!(matches!(desk.answer(&question(4, seen(1)), NOW), Ok(Answer::Refused { .. })));
        assert_eq!(desk.answer(&question(5, seen(2)), NOW), Ok(Answer::Done));
        assert_eq!(desk.was_asked(), ["w sees nobody served in epoch 1: http 503"]);
    }

    #[test]
    fn a_member_that_was_removed_is_heard_no_more() {
        let mut desk = Desk::new();
        assert_eq!(desk.answer(&question(1, Ask::Look), NOW), Ok(Answer::Done));
        Arc::get_mut(&mut desk.agent).unwrap().members.remove(0);
        assert_eq!(desk.answer(&question(2, Ask::Look), NOW), Err(AskError::Stranger));
    }

    #[test]
    fn a_person_s_request_counts_once_and_a_promise_may_be_asked_for_again() {
        let desk = Desk::new();
        let asked = question(1, hand_over("a"));
        assert_eq!(desk.answer(&asked, NOW.plus(Duration::from_secs(61))), Err(AskError::NotNew));
        assert_eq!(desk.answer(&asked, NOW.minus(Duration::from_secs(61))), Err(AskError::NotNew));
        assert_eq!(desk.answer(&asked, NOW.plus(Duration::from_secs(59))), Ok(Answer::Done));
        assert_eq!(desk.answer(&asked, NOW), Err(AskError::Again));
        assert_eq!(desk.was_asked(), ["hand over to a"]);
        let down = Ask::Attest { host: host("a"), person: "ops".into() };
        for (nonce, ask) in [(4, take_over("no power")), (5, down)] {
            let asked = question(nonce, ask);
            assert_eq!(desk.answer(&asked, NOW.plus(Duration::from_secs(61))), Err(AskError::NotNew));
            assert_eq!(desk.answer(&asked, NOW), Ok(Answer::Done));
            assert_eq!(desk.answer(&asked, NOW), Err(AskError::Again));
        }
        assert_eq!(desk.was_asked().len(), 2);
        let promise = question(2, Ask::Promise { epoch: Epoch(1) });
        for _ in 0..2 {
            assert_eq!(desk.answer(&promise, NOW.plus(Duration::from_hours(9))), Ok(Answer::Done));
        }
        let nobody = question(3, Ask::KeepServing { person: String::new() });
        assert_eq!(desk.answer(&nobody, NOW), Err(AskError::Person));
    }

    #[test]
    fn what_is_too_large_or_no_request_is_refused() {
        let desk = Desk::new();
        assert_eq!(desk.raw(&[b' '; ASK_MAX_BYTES + 1], NOW), Err(AskError::TooLarge));
        for bad in [&b""[..], b"{}", b"7", b"\xff"] {
            assert_eq!(desk.raw(bad, NOW), Err(AskError::Unreadable));
        }
        let mut longer = question(1, Ask::Look).encode();
        longer.extend_from_slice(b"x");
        assert_eq!(desk.raw(&longer, NOW), Err(AskError::Unreadable));
    }
}

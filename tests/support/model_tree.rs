//! A live tree in memory behind the scan's interface, and an adversary that acts between any two of its
//! calls.
//!
//! Inode numbers are reused once no handle holds them. Directories list their entries in the order of
//! creation, in two halves between which the adversary acts; a name that is renamed over moves to the end,
//! beyond the part that an open listing still returns (as on btrfs). Times are fine-grained, as on Linux from
//! 6.13 on.

use rustix::fs::FileType;
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::ffi::{CStr, CString};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use understudy::model::entry::{Entry, Fingerprint, Kind, Timestamp};
use understudy::model::hold::FilesystemId;
use understudy::model::id::ContentHash;
use understudy::source::data_map::DataMap;
use understudy::source::error::SourceError;
use understudy::source::stat::Stat;
use understudy::source::tree::{AttributesRead, Directory, File, ReadError, Special, Tree};

pub type Id = usize;
pub type Path8 = Vec<u8>;

#[derive(Clone, Debug)]
enum Body {
    /// Each name's inode and place in the listing.
    Directory(BTreeMap<Vec<u8>, (Id, u64)>),
    File(Vec<u8>),
    Symlink(Vec<u8>),
}

#[derive(Clone, Debug)]
struct Inode {
    number: u64,
    device: u32,
    body: Body,
    mode: u16,
    mtime: u64,
    ctime: u64,
    links: u32,
    opens: u32,
}

/// A path's state, as a user sees it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct State {
    pub kind: String,
    pub mode: u16,
    pub mtime: u64,
}

impl State {
    pub fn of(entry: &Entry) -> Self {
        let kind = match &entry.kind {
            Kind::Directory => "directory".to_owned(),
            Kind::File(file) => format!("file {}", file.hash),
            Kind::Symlink { target } => format!("symlink {}", String::from_utf8_lossy(target)),
            other => other.name().to_owned(),
        };
        let mtime = entry.mtime.seconds as u64 * 1_000_000_000 + u64::from(entry.mtime.nanos);
        Self { kind, mode: entry.mode, mtime }
    }
}

/// One step of the changes during a scan. A step whose paths do not exist does nothing.
#[derive(Clone, Debug)]
pub enum Act {
    Write(Path8, Vec<u8>),
    Mkdir(Path8),
    Symlink(Path8, Vec<u8>),
    Link(Path8, Path8),
    Chmod(Path8, u16),
    /// Also replaces an existing target, as rename(2) does.
    Rename(Path8, Path8),
    Exchange(Path8, Path8),
    Unlink(Path8),
    /// Removes an empty directory.
    Rmdir(Path8),
    Mount(Path8),
    Unmount(Path8),
    /// Removes one entry at a time, from the deepest up.
    RemoveAll(Path8),
    /// A name that its directory lists and that cannot be looked up: of a dead network mount, or made by
    /// another host.
    Haunt(Path8),
}

/// Decides which steps happen, and when.
pub trait Adversary: Send {
    /// Called before each call, with the number of calls so far.
    fn acts(&mut self, world: &World, call: u64) -> Vec<Act>;
    /// Returns an error that replaces the call.
    fn fails(&mut self, call: u64) -> Option<Errno>;
}

/// An adversary that does nothing.
pub struct Quiet;

impl Adversary for Quiet {
    fn acts(&mut self, _: &World, _: u64) -> Vec<Act> {
        Vec::new()
    }

    fn fails(&mut self, _: u64) -> Option<Errno> {
        None
    }
}

/// The tree, and the states that it has had.
pub struct World {
    inodes: Vec<Inode>,
    /// The covered directory of each mount, with the root of what is mounted there.
    mounts: HashMap<Id, Id>,
    unmounted: Vec<Id>,
    haunted: HashSet<(Id, Vec<u8>)>,
    free: Vec<(u32, u64)>,
    next: u64,
    clock_ns: u64,
    pub calls: u64,
    /// Whether each call and each act is printed, for a schedule that is repeated.
    pub is_told: bool,
    todo: VecDeque<Act>,
    /// Since the last `watch`: every state of every path,
    pub seen: HashMap<Path8, HashSet<State>>,
    /// and the paths that were present all the time.
    pub always: BTreeSet<Path8>,
    /// Every inode that each path ever had.
    pub inodes_of: HashMap<Path8, HashSet<Id>>,
}

const ROOT: Id = 0;

impl World {
    fn new() -> Self {
        let mut world = Self {
            inodes: Vec::new(),
            mounts: HashMap::new(),
            unmounted: Vec::new(),
            haunted: HashSet::new(),
            free: Vec::new(),
            next: 100,
            clock_ns: 1_700_000_000_000_000_000,
            calls: 0,
            is_told: std::env::var_os("UNDERSTUDY_TEST_SEED").is_some(),
            todo: VecDeque::new(),
            seen: HashMap::new(),
            always: BTreeSet::new(),
            inodes_of: HashMap::new(),
        };
        world.make(Body::Directory(BTreeMap::new()), 0o755, 1);
        world.inodes[ROOT].links = 2;
        world
    }

    fn make(&mut self, body: Body, mode: u16, device: u32) -> Id {
        // The number that was freed last is reused first.
        let number = match self.free.iter().rposition(|(of, _)| *of == device) {
            Some(at) => self.free.remove(at).1,
            None => {
                self.next += 1;
                self.next
            }
        };
        let now = self.tick();
        self.inodes.push(Inode { number, device, body, mode, mtime: now, ctime: now, links: 1, opens: 0 });
        self.inodes.len() - 1
    }

    fn tick(&mut self) -> u64 {
        self.clock_ns += 1_000;
        self.clock_ns
    }

    pub fn pass(&mut self, ns: u64) {
        self.clock_ns += ns;
    }

    pub fn now_ns(&self) -> u64 {
        self.clock_ns
    }

    fn covering(&self, id: Id) -> Id {
        self.mounts.get(&id).map_or(id, |root| self.covering(*root))
    }

    fn child(&self, dir: Id, name: &[u8]) -> Option<Id> {
        match &self.inodes[dir].body {
            Body::Directory(children) => children.get(name).map(|(id, _)| *id),
            _ => None,
        }
    }

    /// Returns the inode at a path; at a mount point that is the mounted root.
    fn find(&self, path: &[u8]) -> Option<Id> {
        let mut at = self.covering(ROOT);
        for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
            at = self.covering(self.child(at, name)?);
        }
        Some(at)
    }

    fn split(path: &[u8]) -> (&[u8], &[u8]) {
        match path.iter().rposition(|byte| *byte == b'/') {
            Some(at) => (&path[..at], &path[at + 1..]),
            None => (b"", path),
        }
    }

    fn is_directory(&self, id: Id) -> bool {
        matches!(self.inodes[id].body, Body::Directory(_))
    }

    pub fn paths(&self) -> Vec<Path8> {
        self.states().into_keys().collect()
    }

    pub fn directories(&self) -> Vec<Path8> {
        let states = self.states();
        states.into_iter().filter(|(_, (state, _))| state.kind == "directory").map(|(path, _)| path).collect()
    }

    /// Returns all paths as they are now, with their inodes.
    pub fn states(&self) -> BTreeMap<Path8, (State, Id)> {
        let mut all = BTreeMap::new();
        self.collect(self.covering(ROOT), Vec::new(), &mut all);
        all
    }

    fn collect(&self, id: Id, path: Path8, all: &mut BTreeMap<Path8, (State, Id)>) {
        let inode = &self.inodes[id];
        let kind = match &inode.body {
            Body::Directory(children) => {
                for (name, (child, _)) in children {
                    let mut below = path.clone();
                    if !below.is_empty() {
                        below.push(b'/');
                    }
                    below.extend_from_slice(name);
                    self.collect(self.covering(*child), below, all);
                }
                "directory".to_owned()
            }
            Body::File(bytes) => format!("file {}", ContentHash::of(bytes)),
            Body::Symlink(target) => format!("symlink {}", String::from_utf8_lossy(target)),
        };
        all.insert(path, (State { kind, mode: inode.mode, mtime: inode.mtime }, id));
    }

    /// Starts to record the states.
    pub fn watch(&mut self) {
        self.seen.clear();
        self.always = self.states().into_keys().collect();
        self.remember();
    }

    fn remember(&mut self) {
        let states = self.states();
        self.always.retain(|path| states.contains_key(path));
        for (path, (state, id)) in states {
            self.inodes_of.entry(path.clone()).or_default().insert(id);
            self.seen.entry(path).or_default().insert(state);
        }
    }

    fn put(&mut self, path: &[u8], id: Id) -> bool {
        let (above, name) = Self::split(path);
        let Some(dir) = self.find(above) else { return false };
        self.next += 1;
        let (cookie, now) = (self.next, self.tick());
        let inode = &mut self.inodes[dir];
        let Body::Directory(children) = &mut inode.body else { return false };
        children.insert(name.to_vec(), (id, cookie));
        (inode.mtime, inode.ctime) = (now, now);
        true
    }

    /// Removes a name; the inode stays as it is.
    fn take(&mut self, path: &[u8]) -> Option<Id> {
        let (above, name) = Self::split(path);
        let dir = self.find(above)?;
        let now = self.tick();
        let inode = &mut self.inodes[dir];
        let Body::Directory(children) = &mut inode.body else { return None };
        let (id, _) = children.remove(name)?;
        (inode.mtime, inode.ctime) = (now, now);
        Some(id)
    }

    fn drop_link(&mut self, id: Id) {
        let now = self.tick();
        let inode = &mut self.inodes[id];
        inode.links = inode.links.saturating_sub(1);
        inode.ctime = now;
        self.give_up(id);
    }

    fn give_up(&mut self, id: Id) {
        let inode = &self.inodes[id];
        if inode.links == 0 && inode.opens == 0 && !self.free.contains(&(inode.device, inode.number)) {
            let number = (inode.device, inode.number);
            self.free.push(number);
        }
    }

    fn touch(&mut self, id: Id, written: bool) {
        let now = self.tick();
        self.inodes[id].ctime = now;
        if written {
            self.inodes[id].mtime = now;
        }
    }

    /// Returns the inode of a name in its directory, rather than what is mounted over it.
    fn own(&self, path: &[u8]) -> Option<Id> {
        let (above, name) = Self::split(path);
        self.child(self.find(above)?, name)
    }

    fn holds_a_mount(&self, id: Id) -> bool {
        if self.mounts.contains_key(&id) {
            return true;
        }
        match &self.inodes[id].body {
            Body::Directory(children) => children.values().any(|(child, _)| self.holds_a_mount(*child)),
            _ => false,
        }
    }

    fn is_empty(&self, id: Id) -> bool {
        matches!(&self.inodes[id].body, Body::Directory(children) if children.is_empty())
    }

    pub fn act(&mut self, act: Act) {
        match act {
            Act::RemoveAll(path) => {
                let mut steps: Vec<_> = self
                    .states()
                    .into_iter()
                    .filter(|(at, _)| *at == path || at.starts_with(&[&path[..], b"/"].concat()))
                    .map(
                        |(at, (state, _))| {
                            if state.kind == "directory" { Act::Rmdir(at) } else { Act::Unlink(at) }
                        },
                    )
                    .collect();
                steps.reverse();
                self.todo.extend(steps);
            }
            act => {
                if self.is_told {
                    eprintln!("{}: {act:?}", self.calls);
                }
                self.act_at_once(act);
                self.remember();
            }
        }
    }

    fn act_at_once(&mut self, act: Act) {
        // The root itself can only be changed.
        let of_root = |path: &Path8| path.is_empty();
        let names_root = match &act {
            Act::Write(path, _) | Act::Mkdir(path) | Act::Symlink(path, _) => of_root(path),
            Act::Link(from, to) | Act::Rename(from, to) | Act::Exchange(from, to) => {
                of_root(from) || of_root(to)
            }
            Act::Unlink(path) | Act::Rmdir(path) | Act::Mount(path) | Act::Unmount(path) => of_root(path),
            Act::Chmod(..) | Act::RemoveAll(_) | Act::Haunt(_) => false,
        };
        if names_root {
            return;
        }
        match act {
            Act::RemoveAll(_) => {}
            Act::Haunt(path) => {
                let (above, name) = Self::split(&path);
                if let Some(dir) = self.find(above) {
                    self.haunted.insert((dir, name.to_vec()));
                }
            }
            Act::Write(path, bytes) => match self.own(&path) {
                Some(id) => {
                    if let Body::File(body) = &mut self.inodes[id].body {
                        *body = bytes;
                        self.touch(id, true);
                    }
                }
                None if self.find(Self::split(&path).0).is_some_and(|dir| self.is_directory(dir)) => {
                    let device = self.device_at(&path);
                    let id = self.make(Body::File(bytes), 0o644, device);
                    self.put(&path, id);
                }
                None => {}
            },
            Act::Mkdir(path) => self.create(&path, Body::Directory(BTreeMap::new()), 0o755),
            Act::Symlink(path, target) => self.create(&path, Body::Symlink(target), 0o777),
            Act::Link(from, to) => {
                if let Some(id) = self.own(&from).filter(|id| !self.is_directory(*id))
                    && self.own(&to).is_none()
                    && self.device_at(&from) == self.device_at(&to)
                    && self.put(&to, id)
                {
                    self.inodes[id].links += 1;
                    self.touch(id, false);
                }
            }
            Act::Chmod(path, mode) => {
                if let Some(id) = self.find(&path) {
                    self.inodes[id].mode = mode;
                    self.touch(id, false);
                }
            }
            Act::Rename(from, to) => self.rename(&from, &to),
            Act::Exchange(a, b) => {
                let within = |x: &[u8], y: &[u8]| x == y || x.starts_with(&[y, b"/"].concat());
                let (Some(x), Some(y)) = (self.own(&a), self.own(&b)) else { return };
                if within(&a, &b) || within(&b, &a) || self.device_at(&a) != self.device_at(&b) {
                    return;
                }
                if self.holds_a_mount(x) || self.holds_a_mount(y) {
                    return;
                }
                for (path, id) in [(&a, y), (&b, x)] {
                    let (above, name) = Self::split(path);
                    let Some(dir) = self.find(above) else { continue };
                    let now = self.tick();
                    let inode = &mut self.inodes[dir];
                    if let Body::Directory(children) = &mut inode.body
                        && let Some(entry) = children.get_mut(name)
                    {
                        entry.0 = id;
                    }
                    (inode.mtime, inode.ctime) = (now, now);
                }
                self.touch(x, false);
                self.touch(y, false);
            }
            Act::Unlink(path) => {
                if self.own(&path).is_some_and(|id| !self.is_directory(id))
                    && let Some(id) = self.take(&path)
                {
                    self.drop_link(id);
                }
            }
            Act::Rmdir(path) => {
                if self.own(&path).is_some_and(|id| self.is_empty(id) && !self.mounts.contains_key(&id))
                    && let Some(id) = self.take(&path)
                {
                    self.inodes[id].links = 0;
                    self.touch(id, false);
                    self.give_up(id);
                }
            }
            Act::Mount(path) => {
                let Some(id) = self.own(&path).filter(|id| self.is_directory(*id)) else { return };
                if self.mounts.contains_key(&id) {
                    return;
                }
                let root = match self.unmounted.pop() {
                    Some(root) => root,
                    None => {
                        self.next += 1;
                        let device = self.next as u32;
                        let root = self.make(Body::Directory(BTreeMap::new()), 0o755, device);
                        let file = self.make(Body::File(b"on a volume".to_vec()), 0o644, device);
                        if let Body::Directory(children) = &mut self.inodes[root].body {
                            children.insert(b"volume".to_vec(), (file, 1));
                        }
                        root
                    }
                };
                // Each mount has another device number.
                self.next += 1;
                let device = self.next as u32;
                self.set_device(root, device);
                self.mounts.insert(id, root);
            }
            Act::Unmount(path) => {
                if let Some(root) = self.own(&path).and_then(|id| self.mounts.remove(&id)) {
                    self.unmounted.push(root);
                }
            }
        }
    }

    fn set_device(&mut self, id: Id, device: u32) {
        self.inodes[id].device = device;
        if let Body::Directory(children) = &self.inodes[id].body {
            for child in children.values().map(|(child, _)| *child).collect::<Vec<_>>() {
                self.set_device(child, device);
            }
        }
    }

    fn device_at(&self, path: &[u8]) -> u32 {
        self.find(Self::split(path).0).map_or(0, |dir| self.inodes[dir].device)
    }

    fn create(&mut self, path: &[u8], body: Body, mode: u16) {
        if self.own(path).is_none()
            && self.find(Self::split(path).0).is_some_and(|dir| self.is_directory(dir))
        {
            let device = self.device_at(path);
            let id = self.make(body, mode, device);
            self.put(path, id);
        }
    }

    fn rename(&mut self, from: &[u8], to: &[u8]) {
        if to == from || to.starts_with(&[from, b"/"].concat()) || from.starts_with(&[to, b"/"].concat()) {
            return;
        }
        let Some(id) = self.own(from) else { return };
        if self.holds_a_mount(id) || self.device_at(from) != self.device_at(to) {
            return;
        }
        match self.own(to) {
            Some(other) if other == id => return,
            Some(other) if self.mounts.contains_key(&other) => return,
            Some(other) if self.is_directory(other) != self.is_directory(id) => return,
            Some(other) if self.is_directory(other) && !self.is_empty(other) => return,
            Some(other) => {
                // Atomic: the name is never missing.
                self.take(to);
                self.put(to, id);
                self.take(from);
                if self.is_directory(other) {
                    self.inodes[other].links = 0;
                    self.give_up(other);
                } else {
                    self.drop_link(other);
                }
            }
            None => {
                if self.find(Self::split(to).0).is_none_or(|dir| !self.is_directory(dir)) {
                    return;
                }
                self.take(from);
                self.put(to, id);
            }
        }
        self.touch(id, false);
    }

    fn stat(&self, id: Id, is_mount_root: bool) -> Stat {
        let inode = &self.inodes[id];
        let time =
            |ns: u64| Timestamp { seconds: (ns / 1_000_000_000) as i64, nanos: (ns % 1_000_000_000) as u32 };
        let (kind, size_bytes) = match &inode.body {
            Body::Directory(_) => (FileType::Directory, 0),
            Body::File(bytes) => (FileType::RegularFile, bytes.len() as u64),
            Body::Symlink(target) => (FileType::Symlink, target.len() as u64),
        };
        Stat {
            kind,
            mode: inode.mode,
            uid: 0,
            gid: 0,
            size_bytes,
            blocks: size_bytes.div_ceil(512),
            mtime: time(inode.mtime),
            fingerprint: Fingerprint { inode: inode.number, ctime: time(inode.ctime) },
            links: inode.links,
            device: (0, inode.device),
            node: (0, 0),
            is_mount_root,
        }
    }
}

/// The tree, shared.
#[derive(Clone)]
pub struct Model(Arc<Shared>);

type Shared = (Mutex<World>, Mutex<Box<dyn Adversary>>);

impl Model {
    pub fn new() -> Self {
        Self(Arc::new((Mutex::new(World::new()), Mutex::new(Box::new(Quiet)))))
    }

    pub fn world(&self) -> MutexGuard<'_, World> {
        self.0.0.lock().unwrap()
    }

    /// Sets the adversary that acts from now on.
    pub fn let_act(&self, adversary: Box<dyn Adversary>) {
        *self.0.1.lock().unwrap() = adversary;
    }

    /// Completes the acts that were begun.
    pub fn finish(&self) {
        let mut world = self.world();
        while let Some(act) = world.todo.pop_front() {
            world.act(act);
        }
        world.haunted.clear();
    }

    /// Lets the adversary act, then does the call, unless it fails.
    fn call(&self, what: &str, id: Id, name: &CStr) -> Result<MutexGuard<'_, World>, Errno> {
        let mut world = self.world();
        world.calls += 1;
        if world.is_told {
            eprintln!("{}: {what} {id} {name:?}", world.calls);
        }
        world.pass(10_000);
        let call = world.calls;
        let mut adversary = self.0.1.lock().unwrap();
        if let Some(act) = world.todo.pop_front() {
            world.act(act);
        }
        for act in adversary.acts(&world, call) {
            world.act(act);
        }
        match adversary.fails(call) {
            Some(errno) => {
                if world.is_told {
                    eprintln!("{call}: fails: {errno}");
                }
                Err(errno)
            }
            None => Ok(world),
        }
    }

    fn open(&self, world: &mut World, id: Id) -> Handle {
        world.inodes[id].opens += 1;
        Handle { model: self.clone(), id }
    }
}

struct Handle {
    model: Model,
    id: Id,
}

impl Drop for Handle {
    fn drop(&mut self) {
        let mut world = self.model.world();
        world.inodes[self.id].opens -= 1;
        world.give_up(self.id);
    }
}

impl Handle {
    fn below(&self, world: &World, name: &CStr) -> Result<(Id, bool), Errno> {
        if world.haunted.contains(&(self.id, name.to_bytes().to_vec())) {
            return Err(Errno::NOENT);
        }
        let id = world.child(self.id, name.to_bytes()).ok_or(Errno::NOENT)?;
        Ok((world.covering(id), world.mounts.contains_key(&id)))
    }
}

impl Tree for Model {
    fn open_root(&self, _: &Path) -> Result<Arc<dyn Directory>, SourceError> {
        let mut world = self.world();
        let root = world.covering(ROOT);
        Ok(Arc::new(self.open(&mut world, root)))
    }
}

impl Directory for Handle {
    fn stat(&self) -> Result<Stat, Errno> {
        let world = self.model.call("stat", self.id, c"")?;
        let is_mount_root = world.mounts.values().any(|root| *root == self.id);
        Ok(world.stat(self.id, is_mount_root))
    }

    fn names(&self) -> Result<Vec<CString>, Errno> {
        let told = |world: &World, from: u64, to: u64| -> Vec<(u64, CString)> {
            let Body::Directory(children) = &world.inodes[self.id].body else { return Vec::new() };
            let mut told: Vec<_> = children
                .iter()
                .filter(|(_, (_, cookie))| *cookie > from && *cookie <= to)
                .map(|(name, (_, cookie))| (*cookie, CString::new(name.clone()).unwrap()))
                .collect();
            told.sort();
            told
        };
        let world = self.model.call("names", self.id, c"")?;
        let last = world.next;
        let mut names = told(&world, 0, last);
        names.truncate(names.len().div_ceil(2));
        let middle = names.last().map_or(last, |(cookie, _)| *cookie);
        drop(world);
        let world = self.model.call("more names", self.id, c"")?;
        names.extend(told(&world, middle, last));
        Ok(names.into_iter().map(|(_, name)| name).collect())
    }

    fn stat_at(&self, name: &CStr) -> Result<Stat, Errno> {
        let world = self.model.call("stat", self.id, name)?;
        let (id, is_mount_root) = self.below(&world, name)?;
        Ok(world.stat(id, is_mount_root))
    }

    fn open_directory(&self, name: &CStr) -> Result<Arc<dyn Directory>, Errno> {
        let mut world = self.model.call("open directory", self.id, name)?;
        let (id, _) = self.below(&world, name)?;
        match &world.inodes[id].body {
            Body::Directory(_) => Ok(Arc::new(self.model.open(&mut world, id))),
            Body::File(_) => Err(Errno::NOTDIR),
            Body::Symlink(_) => Err(Errno::LOOP),
        }
    }

    fn open_file(&self, name: &CStr) -> Result<Arc<dyn File>, Errno> {
        let mut world = self.model.call("open file", self.id, name)?;
        let (id, _) = self.below(&world, name)?;
        match &world.inodes[id].body {
            Body::Symlink(_) => Err(Errno::LOOP),
            // A directory can be opened, but not read.
            _ => Ok(Arc::new(self.model.open(&mut world, id))),
        }
    }

    fn special(&self, name: &CStr) -> Result<Special, Errno> {
        let world = self.model.call("special", self.id, name)?;
        let (id, is_mount_root) = self.below(&world, name)?;
        let target = match &world.inodes[id].body {
            Body::Symlink(target) => target.clone(),
            _ => Vec::new(),
        };
        Ok(Special { stat: world.stat(id, is_mount_root), target, attributes: AttributesRead::default() })
    }

    fn attributes(&self) -> AttributesRead {
        AttributesRead { failed: self.model.call("attributes", self.id, c"").err(), ..Default::default() }
    }

    fn filesystem(&self, stat: &Stat) -> FilesystemId {
        FilesystemId { magic: 1, id: 1, root_inode: stat.fingerprint.inode, mounts: None }
    }
}

impl File for Handle {
    fn stat(&self) -> Result<Stat, Errno> {
        Ok(self.model.call("stat file", self.id, c"")?.stat(self.id, false))
    }

    fn attributes(&self) -> AttributesRead {
        AttributesRead { failed: self.model.call("attributes", self.id, c"").err(), ..Default::default() }
    }

    fn data_map(&self, size_bytes: u64) -> Result<DataMap, Errno> {
        Ok(DataMap::full(size_bytes))
    }

    fn read_exact(&self, buffer: &mut [u8], at: u64) -> Result<(), ReadError> {
        let world = self.model.call("read", self.id, c"").map_err(ReadError::System)?;
        let Body::File(bytes) = &world.inodes[self.id].body else {
            return Err(ReadError::System(Errno::ISDIR));
        };
        let end = at as usize + buffer.len();
        buffer.copy_from_slice(bytes.get(at as usize..end).ok_or(ReadError::EndsEarly)?);
        Ok(())
    }
}

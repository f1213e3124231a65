//! What befalls the machines of [`super::namespaces`], besides the loss of their power: cut links, processes and
//! machines that are paused, disks that hang or are full, clocks that are set.

use super::command::ok;
use super::namespaces::{ADDRESSES, Lab, WebHost, entered, inside, signal};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

impl Lab {
    /// Loses what two machines send each other.
    pub fn cut(&mut self, one: &str, other: &str) {
        self.tell(&format!("cut {one} {other}"));
    }

    pub fn join(&mut self, one: &str, other: &str) {
        self.tell(&format!("join {one} {other}"));
    }

    /// Begins an order at the gate of a host, by no edge. Its output has the answer's header.
    pub fn begin_order_at(&self, host: usize, id: &str) -> Child {
        let url = format!("http://{}:8080/order", ADDRESSES[host]);
        let body = format!("{{\"id\": \"{id}\"}}");
        let mut curl = inside(self.customer);
        curl.args(["curl", "-s", "-i", "--max-time", "100", "-d", &body, &url]).stdout(Stdio::piped());
        curl.spawn().unwrap()
    }
}

/// Returns the processes of the machine that a process is in.
fn processes(first: u32) -> Vec<u32> {
    let machine = |pid: u32| std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let wanted = machine(first).unwrap();
    let listed = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = listed.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| machine(*pid).as_ref() == Some(&wanted)).collect()
}

/// Signals a process, unless it has ended.
fn try_signal(pid: u32, name: &str) {
    let _ = Command::new("kill").args([name, &pid.to_string()]).stderr(Stdio::null()).status();
}

impl WebHost {
    fn daemon_pid(&self) -> u32 {
        entered(self.daemon.as_ref().unwrap()).expect("the daemon runs")
    }

    /// Pauses the daemon, and nothing else.
    pub fn pause_daemon(&self) {
        signal(self.daemon_pid(), "-STOP");
    }

    pub fn resume_daemon(&self) {
        // `nsenter` stops with its child.
        signal(self.daemon.as_ref().unwrap().id(), "-CONT");
        signal(self.daemon_pid(), "-CONT");
    }

    /// Asks the daemon to end, and waits until it has.
    pub fn end_daemon(&mut self) {
        signal(self.daemon_pid(), "-TERM");
        assert!(self.daemon.take().unwrap().wait().unwrap().success());
    }

    /// Pauses all that runs on this host.
    pub fn pause(&self) {
        let mut paused = Vec::new();
        // Also what begins meanwhile.
        loop {
            let mut new = processes(self.first.unwrap());
            new.retain(|pid| !paused.contains(pid));
            if new.is_empty() {
                return;
            }
            new.iter().for_each(|pid| try_signal(*pid, "-STOP"));
            paused.extend(new);
        }
    }

    pub fn resume(&self) {
        if let Some(nsenter) = &self.daemon {
            signal(nsenter.id(), "-CONT");
        }
        processes(self.first.unwrap()).iter().for_each(|pid| try_signal(*pid, "-CONT"));
    }

    /// Returns a command on this host.
    pub fn command(&self, program: &str) -> Command {
        let mut command = inside(self.first.expect("the host has power"));
        command.arg(program);
        command
    }

    /// Puts a directory of this host on an ext4 of its own, with what is there. Nothing may use it yet.
    pub fn put_on_disk(&self, dir: &Path, bytes: u64) {
        let image = self.dir.with_file_name(format!("{}.image", self.name));
        std::fs::File::create(&image).unwrap().set_len(bytes).unwrap();
        ok(Command::new("mkfs.ext4").args(["-q", "-m", "0"]).arg(&image));
        let script = "mkdir -p $2 && mount -o loop $1 /mnt && cp -a $2/. /mnt && mount --move /mnt $2; \
                      [ ! -e $2/srv ] || mount --bind $2/srv /srv";
        ok(self.command("sh").args(["-ec", script, "sh"]).arg(&image).arg(dir));
    }

    /// Has a disk take no write for this time. It ends also where the test fails: what waits for a frozen disk
    /// cannot be killed, so this is no process of the machine.
    pub fn freeze(&self, disk: &Path, seconds: u64) -> Child {
        let script = "fsfreeze -f $1; sleep $2; fsfreeze -u $1";
        let mut command = Command::new("nsenter");
        command
            .args(["-t", &self.first.unwrap().to_string(), "-m", "--", "sh", "-c", script, "sh"])
            .arg(disk)
            .arg(seconds.to_string())
            .stdin(Stdio::null());
        command.spawn().unwrap()
    }

    /// Returns whether the shop's process runs here.
    pub fn shop_runs(&self) -> bool {
        let state = self.dir.join("shop.pid");
        let shop = self.dir.join("shop.py");
        let mut check = self.command("python3");
        check.arg(shop).args(["check", "/srv/shop", "8081"]).arg(state);
        check.output().unwrap().status.code() != Some(3)
    }
}

/// Returns the library that gives a process another wall clock.
pub fn faketime() -> PathBuf {
    let files = walkdir::WalkDir::new("/usr/lib").into_iter().flatten().map(walkdir::DirEntry::into_path);
    let mut found = files.filter(|path| path.file_name().is_some_and(|name| name == "libfaketimeMT.so.1"));
    found.next().expect("tests/tools.sh installs faketime")
}

//! A web server: nginx on loopback, stopped by its own pid.

use super::wait::wait_until;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

pub struct Nginx {
    child: Child,
    dir: TempDir,
    pub port: u16,
}

impl Nginx {
    /// Starts a server whose page says `name`.
    pub fn start(name: &str) -> Self {
        Self::start_at(super::servers::free_port(), name)
    }

    pub fn start_at(port: u16, name: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("files")).unwrap();
        std::fs::write(dir.path().join("files/page"), name).unwrap();
        let config = format!(
            "user root; worker_processes 1; pid {dir}/pid; error_log {dir}/error.log; daemon off;
             events {{ worker_connections 2048; }}
             http {{
               log_format short '$status $request';
               access_log {dir}/access.log short;
               client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy; fastcgi_temp_path {dir}/fastcgi;
               uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;
               client_max_body_size 0; keepalive_requests 1000000;
               server {{
                 listen 127.0.0.1:{port} backlog=2048;
                 location = / {{ return 200 '{name}'; }}
                 location = /echo {{
                   return 200 'for=$http_x_forwarded_for proto=$http_x_forwarded_proto connection=$http_connection mine=$http_x_mine host=$http_host';
                 }}
                 location /files/ {{ root {dir}; dav_methods PUT; create_full_put_path on; }}
                 location /slow/ {{ alias {dir}/files/; limit_rate 20k; }}
               }}
             }}",
            dir = dir.path().display()
        );
        std::fs::write(dir.path().join("nginx.conf"), config).unwrap();
        let mut command = Command::new("nginx");
        command.arg("-c").arg(dir.path().join("nginx.conf")).arg("-p").arg(dir.path());
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        wait_until("nginx listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        Self { child, dir, port }
    }

    /// Returns the directory of what is served at `/files/`.
    pub fn files(&self) -> std::path::PathBuf {
        self.dir.path().join("files")
    }

    /// Returns the log: a status and a request in each line.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path().join("access.log")).unwrap()
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // Its first process ends the others at this signal, and not when it is killed.
        let _ = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        let _ = self.child.wait();
    }
}

//! The edges of a store, in this process.

use super::proxies::Proxy;
use std::path::Path;
use std::time::Duration;
use tokio::runtime::Runtime;
use understudy::edge::context::EdgeContext;
use understudy::edge::edges::Edges;
use understudy::edge::error::EdgeError;
use understudy::edge::switch::{Cause, Edge, Switch, Verdict};
use understudy::model::id::{Epoch, StoreName, WriterId};
use understudy::service::config::Config;
use understudy::support::env::Env;

/// Edges of the store `acme`, as a configuration names them.
pub struct Rig {
    pub edges: Edges,
    // Ends after the edges.
    _runtime: Runtime,
}

impl Rig {
    pub fn new(customer_url: &str, edges: &str) -> Self {
        let text =
            format!("[[store]]\nname = 'acme'\npath = '/srv/acme'\ncustomer_url = '{customer_url}'\n{edges}");
        let config = Config::parse(&text, Path::new("/etc/understudy/understudy.toml")).unwrap();
        let store = config.store("acme").unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let context = EdgeContext {
            env: Env::system(),
            runtime: runtime.handle().clone(),
            this: env!("CARGO_BIN_EXE_understudy").into(),
        };
        let edges = Edges::new(&store.name, &store.edge, store.customer_url.as_ref(), &context).unwrap();
        Self { edges, _runtime: runtime }
    }

    pub fn of(proxy: &Proxy) -> Self {
        Self::new(&format!("http://127.0.0.1:{}/", proxy.port), &proxy.edge())
    }

    pub fn switch(&self, switch: &Switch) -> Result<Verdict, EdgeError> {
        self.edges.switch(switch, Duration::from_secs(20))
    }

    /// Switches the first edge alone, without the customers' check.
    pub fn switch_edge(&self, switch: &Switch) -> Result<Verdict, EdgeError> {
        self.edge().switch(switch)
    }

    pub fn edge(&self) -> &dyn Edge {
        self.edges.all().next().unwrap()
    }

    pub fn epoch(&self) -> Option<u64> {
        self.edges.epoch_there().unwrap().map(|epoch| epoch.0)
    }
}

/// Returns a switch of the store from `web-0`.
pub fn switch(epoch: u64, to: &str, address: &str, cause: Cause) -> Switch {
    Switch {
        store: StoreName::parse("acme").unwrap(),
        epoch: Epoch(epoch),
        from: Some(WriterId("web-0".into())),
        to: WriterId(to.into()),
        address: address.parse().unwrap(),
        cause,
    }
}

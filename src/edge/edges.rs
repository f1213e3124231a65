//! The edges of one store, in the order of the configuration, and its customers' address.

use super::cloudfront::CloudfrontEdge;
use super::command::CommandEdge;
use super::config::EdgeConfig;
use super::context::EdgeContext;
use super::customer::{Customer, CustomerUrl};
use super::error::EdgeError;
use super::haproxy::HaproxyEdge;
use super::nginx::NginxEdge;
use super::route53::Route53Edge;
use super::switch::{Edge, Switch, Verdict};
use crate::model::id::{Epoch, StoreName};
use std::time::Duration;

/// A store's edges.
pub struct Edges {
    edges: Vec<Box<dyn Edge>>,
    customer: Option<Customer>,
}

impl Edges {
    pub fn new(
        store: &StoreName,
        edges: &[EdgeConfig],
        customer: Option<&CustomerUrl>,
        context: &EdgeContext,
    ) -> Result<Self, EdgeError> {
        let open = |config: &EdgeConfig| -> Result<Box<dyn Edge>, EdgeError> {
            let limit = config.limit();
            Ok(match config.clone() {
                EdgeConfig::Cloudfront(config) => {
                    Box::new(CloudfrontEdge::new(store, config, limit, context)?)
                }
                EdgeConfig::Command(config) => Box::new(CommandEdge::new(store, config, limit, context)),
                EdgeConfig::Haproxy(config) => Box::new(HaproxyEdge::new(store, config, limit, context)?),
                EdgeConfig::Route53(config) => Box::new(Route53Edge::new(config, limit, context)?),
                EdgeConfig::Nginx(config) => Box::new(NginxEdge::new(store, config, limit, context)?),
            })
        };
        let edges = edges.iter().map(open).collect::<Result<_, _>>()?;
        let customer = customer.map(|url| Customer::new(url, context)).transpose()?;
        Ok(Self { edges, customer })
    }

    /// Returns the edges.
    pub fn all(&self) -> impl Iterator<Item = &dyn Edge> {
        self.edges.iter().map(AsRef::as_ref)
    }

    /// Returns the highest epoch that an edge was given.
    pub fn epoch_there(&self) -> Result<Option<Epoch>, EdgeError> {
        let epochs = self.all().map(Edge::epoch_there);
        Ok(epochs.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().max())
    }

    /// Sends the customers to another host at each edge, and waits until their address shows the new epoch.
    ///
    /// Every edge is asked before the first is changed, so that a fence changes none. Each is then switched even
    /// if another one fails: the host that was the primary serves nobody, so each edge that follows is one less
    /// that fails. May be repeated until it succeeds.
    ///
    /// # Errors
    /// A fence, else the first edge's that failed, else the customers' check.
    pub fn switch(&self, switch: &Switch, limit: Duration) -> Result<Verdict, EdgeError> {
        for edge in self.all() {
            // One that does not answer now is asked again below.
            if let Ok(Some(there)) = edge.there(&edge.deadline()) {
                edge.verdict(&there, &edge.wanted(switch)?)?;
            }
        }
        let results: Vec<_> = self.all().map(|edge| edge.switch(switch)).collect();
        let mut verdict = Verdict::Done;
        let mut failed = None;
        for result in results {
            match result {
                Ok(Verdict::Done) => {}
                Ok(_) => verdict = Verdict::Change,
                Err(error @ (EdgeError::Fenced { .. } | EdgeError::FencedByCommand { .. })) => {
                    return Err(error);
                }
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        if let Some(error) = failed {
            return Err(error);
        }
        self.customer.as_ref().map_or(Ok(()), |customer| customer.wait_for(switch.epoch, limit))?;
        Ok(verdict)
    }

    /// Checks at each edge, without a change, whether a switch could work.
    ///
    /// # Errors
    /// The first edge's that could not.
    pub fn test(&self) -> Result<(), EdgeError> {
        self.all().try_for_each(Edge::test)
    }
}

//! Handlers whose problems are told in the words of a section of a dialect's document. Which words those are is the
//! dialect's matter.

use std::{future::Future, pin::Pin};

use super::{Reply, Request, Response};
use crate::model::Role;

/// Why a handler of a dialect does not answer as asked.
pub trait Problem: Send + 'static {
    /// The sentences of one section of the document.
    type Section: Sync + 'static;

    /// As somebody in `role` may read it: what the host says of itself, paths and all, is for operators.
    fn render(self, section: &Self::Section, role: Role) -> Response;
}

/// A handler whose problems are told in the words of `section`.
pub fn in_section<S, P, F, Fut>(
    section: &'static P::Section,
    handler: F,
) -> impl Fn(S, Request) -> Pin<Box<dyn Future<Output = Response> + Send>> + Send + Sync + 'static
where
    P: Problem,
    F: Fn(S, Request) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Reply, P>> + Send + 'static,
{
    move |shared, request| {
        let role = request.caller.role;
        let answer = handler(shared, request);
        Box::pin(async move {
            match answer.await {
                Ok(reply) => reply.build(),
                Err(problem) => problem.render(section, role),
            }
        })
    }
}

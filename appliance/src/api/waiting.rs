//! Whether whoever asked still waits: hyper drops the future of a request when its connection is closed.

use std::sync::Arc;

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;

use crate::node::asked_by;

/// As a layer of axum, outside of all that goes on when a client goes away.
pub(super) async fn known(request: Request, next: Next) -> Response {
    let waiting = Arc::new(());
    asked_by(Some(Arc::downgrade(&waiting)), next.run(request)).await
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::Mutex;

    use axum::body::Body;
    use axum::http::Method;
    use axum::routing::post;
    use axum::{Router, middleware};
    use futures_util::future::{Either, select};
    use tokio::sync::{Notify, oneshot};
    use tower::ServiceExt as _;

    use super::*;
    use crate::api::idempotency::Replies;
    use crate::node::asker;

    /// Whether a request with a key is still asked for when its handler goes on, after its client has waited or gone.
    async fn is_asked_for(goes: bool) -> bool {
        let (begun, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (said, asked_for) = oneshot::channel();
        let said = Arc::new(Mutex::new(Some(said)));
        let handler = {
            let (begun, go_on) = (begun.clone(), go_on.clone());
            async move || {
                begun.notify_one();
                go_on.notified().await;
                let is_asked_for = asker().is_some_and(|asker| asker.strong_count() > 0);
                said.lock().unwrap().take().unwrap().send(is_asked_for).unwrap();
            }
        };
        let app = Router::new()
            .route("/", post(handler))
            .layer(middleware::from_fn(Replies::default().layer()))
            .layer(middleware::from_fn(known));
        let request = Request::builder().method(Method::POST).uri("/").header("idempotency-key", "k");
        let mut answer = Box::pin(app.oneshot(request.body(Body::empty()).unwrap()));
        match select(answer.as_mut(), pin!(begun.notified())).await {
            Either::Left(_) => panic!("it was answered"),
            Either::Right(_) => {}
        }
        if goes {
            drop(answer);
            go_on.notify_one();
        } else {
            go_on.notify_one();
            answer.await.unwrap();
        }
        asked_for.await.unwrap()
    }

    #[tokio::test]
    async fn a_request_that_goes_on_by_itself_knows_whether_its_client_waits() {
        assert!(is_asked_for(false).await);
        assert!(!is_asked_for(true).await);
    }
}

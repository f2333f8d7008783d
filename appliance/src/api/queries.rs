//! Questions whose query has a key that nothing is known of are refused: a misspelt filter that is ignored answers everything.
//! What is known is what the OpenAPI document says.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{MatchedPath, Query, Request, State};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use utoipa::openapi::path::ParameterIn;
use utoipa::openapi::{OpenApi, RefOr};

use crate::problem::Problem;
use crate::units::quoted;

/// The keys that the query of a GET may have, by the path of its route.
pub(super) type Keys = Arc<BTreeMap<String, Vec<String>>>;

pub(super) fn keys(document: &OpenApi) -> Keys {
    let gets = document.paths.paths.iter().filter_map(|(path, item)| Some((path, item.get.as_ref()?)));
    let keys = gets.map(|(path, get)| {
        let in_query = get.parameters.iter().flatten().filter_map(|parameter| match parameter {
            RefOr::T(parameter) if parameter.parameter_in == ParameterIn::Query => Some(parameter.name.clone()),
            _ => None,
        });
        (path.clone(), in_query.collect())
    });
    Arc::new(keys.collect())
}

/// As a layer of axum, inside of the routes' choice.
pub(super) async fn known(State(keys): State<Keys>, request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    let known = route.and_then(|route| keys.get(route));
    let asks = matches!(*request.method(), Method::GET | Method::HEAD);
    if let (true, Some(known), Ok(Query(query))) =
        (asks, known, Query::<Vec<(String, String)>>::try_from_uri(request.uri()))
        && let Some((key, _)) = query.iter().find(|(key, _)| !known.contains(key))
    {
        let problem = Problem::new("invalid-request", format!("nothing is asked by {} here", quoted(key)));
        let hint = match &known[..] {
            [] => "ask without ?".to_owned(),
            known => format!("what can be: {}", known.join(", ")),
        };
        return problem.hint(hint).into_response();
    }
    next.run(request).await
}

//! Requests whose query has a key that nothing is known of are refused: a misspelt filter that is ignored answers everything, and a
//! misspelt `dry_run` does what should only have been planned.
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

/// The keys that a query may have, by the method and the path of its route.
pub(super) type Keys = Arc<BTreeMap<String, Vec<String>>>;

pub(super) fn keys(document: &OpenApi) -> Keys {
    let operations = document.paths.paths.iter().flat_map(|(path, item)| {
        let of = [
            (Method::GET, &item.get),
            (Method::POST, &item.post),
            (Method::PUT, &item.put),
            (Method::PATCH, &item.patch),
            (Method::DELETE, &item.delete),
        ];
        of.into_iter().filter_map(move |(method, operation)| Some((place(&method, path), operation.as_ref()?)))
    });
    let keys = operations.map(|(place, operation)| {
        let in_query = operation.parameters.iter().flatten().filter_map(|parameter| match parameter {
            RefOr::T(parameter) if parameter.parameter_in == ParameterIn::Query => Some(parameter.name.clone()),
            _ => None,
        });
        (place, in_query.collect())
    });
    Arc::new(keys.collect())
}

fn place(method: &Method, path: &str) -> String {
    let method = if *method == Method::HEAD { &Method::GET } else { method };
    format!("{method} {path}")
}

/// As a layer of axum, inside of the routes' choice.
pub(super) async fn known(State(keys): State<Keys>, request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    let known = route.and_then(|route| keys.get(&place(request.method(), route)));
    if let (Some(known), Ok(Query(query))) = (known, Query::<Vec<(String, String)>>::try_from_uri(request.uri()))
        && let Some((key, _)) = query.iter().find(|(key, _)| !known.contains(key))
    {
        let problem = Problem::new("invalid-request", format!("nothing here knows {}", quoted(key)));
        let hint = match &known[..] {
            [] => "ask without ?".to_owned(),
            known => format!("what can be: {}", known.join(", ")),
        };
        return problem.hint(hint).into_response();
    }
    next.run(request).await
}

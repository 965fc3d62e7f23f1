//! The two files that pages need, in the binary.

use axum::{
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};

use crate::{api::Id, problem::Problem};

/// One of them, by name.
pub(crate) async fn file(Id(name): Id) -> Response {
    let (kind, text) = match name.as_str() {
        "console.js" => (
            "text/javascript; charset=utf-8",
            include_str!("../assets/console.js"),
        ),
        "console.css" => (
            "text/css; charset=utf-8",
            include_str!("../assets/console.css"),
        ),
        _ => {
            let text = "there is nothing at this address";
            return Problem::new(StatusCode::NOT_FOUND, "no-such-page", text).into_response();
        }
    };
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

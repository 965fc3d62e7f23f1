//! What an API can do, by names: its capabilities, and which requests are calls of which.
//!
//! A request is a call of exactly one capability or of none; one that belongs to none is not passed on. Without a
//! description of the API there are two, `read` (GET and HEAD) and `write` (everything else). With an OpenAPI
//! document (3.0 or 3.1) each operation is one, named after its `operationId`.

use std::collections::BTreeMap;

use agentwall_engine::risk::Sensitivity;
use http::Method;
use serde_json::{Map, Value};

/// Most operations of a document.
pub const MAX_OPERATIONS: usize = 4096;

/// Longest name, in bytes.
pub const MAX_NAME: usize = 128;

/// A thing that agents can be granted, and call.
#[derive(Debug, Clone, PartialEq)]
pub struct Capability {
    /// Unique; `[a-z0-9_]` and what else the document's author chose, see [`CatalogueError::Name`].
    pub name: String,
    /// For agents and people.
    pub description: String,
    /// JSON Schema of its arguments; absent when nothing is known of them.
    pub input: Option<Value>,
    /// How much harm it can do.
    pub sensitivity: Sensitivity,
    /// Whether its body may be something else than JSON or a form: then its arguments are not seen.
    pub opaque: bool,
    /// The request that it is, for a call by name; absent for `read` and `write`, which are many.
    pub route: Option<Route>,
}

/// A method and a path template, with the places of the arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The method.
    pub method: Method,
    /// `/transfers/{id}`.
    pub template: String,
    /// Names of arguments that stand in the query.
    pub query: Vec<String>,
}

/// All capabilities of an API.
#[derive(Debug, Clone)]
pub struct Catalogue {
    all: BTreeMap<String, Capability>,
    routes: Routes,
}

#[derive(Debug, Clone)]
enum Routes {
    /// By method alone.
    Plain,
    /// By method and path: the capability's name.
    Described(BTreeMap<String, matchit::Router<String>>),
}

/// The capability that a request is a call of, and the arguments that stand in its path.
#[derive(Debug, Clone, PartialEq)]
pub struct Found<'a> {
    /// The capability.
    pub capability: &'a Capability,
    /// By name, decoded.
    pub path: Map<String, Value>,
}

/// A document that is no catalogue.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CatalogueError {
    /// Not OpenAPI 3.
    #[error("the document is not OpenAPI 3.0 or 3.1: it has no 'openapi: \"3.…\"'")]
    Version,
    /// No operations.
    #[error("the document has no operations under 'paths'")]
    Nothing,
    /// Too many.
    #[error("the document has more than {MAX_OPERATIONS} operations")]
    TooMany,
    /// Two operations have one name.
    #[error("two operations are named '{0}'; give each an operationId of its own")]
    Twice(String),
    /// A name that cannot stand in a policy.
    #[error(
        "'{0}' cannot be the name of a capability: 1 to {MAX_NAME} letters, digits, '_', '-' and '.'"
    )]
    Name(String),
    /// Two operations have one route, or a template is not understood.
    #[error("{method} {template}: {why}")]
    Route {
        /// The method.
        method: String,
        /// As in the document.
        template: String,
        /// What is wrong.
        why: String,
    },
    /// `x-agentwall-sensitivity` is something else.
    #[error("x-agentwall-sensitivity of '{0}' is not low, medium or high")]
    Sensitivity(String),
}

impl Catalogue {
    /// `read` and `write`.
    pub fn plain() -> Catalogue {
        let of = |name: &str, description: &str, sensitivity| Capability {
            name: name.to_owned(),
            description: description.to_owned(),
            input: None,
            sensitivity,
            opaque: true,
            route: None,
        };
        let all = [
            of("read", "GET and HEAD requests", Sensitivity::Low),
            of(
                "write",
                "Requests that may change something",
                Sensitivity::Medium,
            ),
        ];
        Catalogue {
            all: all.map(|c| (c.name.clone(), c)).into(),
            routes: Routes::Plain,
        }
    }

    /// A server of the Model Context Protocol: calls of its tools, and everything else.
    pub fn mcp() -> Catalogue {
        let of = |name: &str, description: &str, sensitivity| Capability {
            name: name.to_owned(),
            description: description.to_owned(),
            input: None,
            sensitivity,
            opaque: false,
            route: None,
        };
        let all = [
            of(
                crate::mcp::REST,
                "Speak with the server: lists, resources, prompts",
                Sensitivity::Low,
            ),
            of(
                crate::mcp::TOOLS,
                "Call the server's tools",
                Sensitivity::Medium,
            ),
        ];
        Catalogue {
            all: all.map(|c| (c.name.clone(), c)).into(),
            routes: Routes::Described(BTreeMap::new()),
        }
    }

    /// The operations of an OpenAPI document.
    ///
    /// # Errors
    /// It is none, or its operations cannot be told apart.
    pub fn of_openapi(document: &Value) -> Result<Catalogue, CatalogueError> {
        let version = document.get("openapi").and_then(Value::as_str);
        if !version.is_some_and(|v| v.starts_with("3.0") || v.starts_with("3.1")) {
            return Err(CatalogueError::Version);
        }
        let paths = document.get("paths").and_then(Value::as_object);
        let mut all = BTreeMap::new();
        let mut routes: BTreeMap<String, matchit::Router<String>> = BTreeMap::new();
        for (template, item) in paths.into_iter().flatten() {
            let shared = item.get("parameters");
            for (method, operation) in item.as_object().into_iter().flatten() {
                let Some(method) = method_of(method) else {
                    continue;
                };
                if all.len() == MAX_OPERATIONS {
                    return Err(CatalogueError::TooMany);
                }
                let one = operation_of(document, &method, template, shared, operation)?;
                let route = |why: String| CatalogueError::Route {
                    method: method.to_string(),
                    template: template.clone(),
                    why,
                };
                crate::target::Target::parse(&template.replace(['{', '}'], ""))
                    .map_err(|e| route(e.to_string()))?;
                (routes.entry(method.to_string()).or_default())
                    .insert(template.clone(), one.name.clone())
                    .map_err(|e| route(e.to_string()))?;
                if let Some(twice) = all.insert(one.name.clone(), one) {
                    return Err(CatalogueError::Twice(twice.name));
                }
            }
        }
        if all.is_empty() {
            return Err(CatalogueError::Nothing);
        }
        Ok(Catalogue {
            all,
            routes: Routes::Described(routes),
        })
    }

    /// All capabilities, by name.
    pub fn all(&self) -> impl Iterator<Item = &Capability> {
        self.all.values()
    }

    /// The capability of that name.
    pub fn get(&self, name: &str) -> Option<&Capability> {
        self.all.get(name)
    }

    /// The capability that a request is a call of. HEAD is a GET without its content (RFC 9110, section 9.3.2).
    pub fn find(&self, method: &Method, path: &str) -> Option<Found<'_>> {
        let reads = matches!(*method, Method::GET | Method::HEAD);
        let routes = match &self.routes {
            Routes::Plain => {
                let capability = self.get(if reads { "read" } else { "write" })?;
                return Some(Found {
                    capability,
                    path: Map::new(),
                });
            }
            Routes::Described(routes) => routes,
        };
        let matched = (routes.get(method.as_str())).and_then(|r| r.at(path).ok());
        let matched = match matched {
            None if *method == Method::HEAD => routes.get("GET").and_then(|r| r.at(path).ok()),
            other => other,
        }?;
        let mut named = Map::new();
        for (name, text) in matched.params.iter() {
            named.insert(name.to_owned(), Value::String(decoded(text)?));
        }
        Some(Found {
            capability: self.get(matched.value)?,
            path: named,
        })
    }
}

/// A path segment's text. What is no UTF-8 has no name as an argument: the request belongs to no capability.
fn decoded(text: &str) -> Option<String> {
    percent_encoding::percent_decode_str(text)
        .decode_utf8()
        .ok()
        .map(Into::into)
}

fn method_of(key: &str) -> Option<Method> {
    Some(match key {
        "get" => Method::GET,
        "put" => Method::PUT,
        "post" => Method::POST,
        "delete" => Method::DELETE,
        "options" => Method::OPTIONS,
        "head" => Method::HEAD,
        "patch" => Method::PATCH,
        // TRACE tells the caller what was sent on, the upstream's credential with it (RFC 9110, section 9.3.8).
        _ => return None,
    })
}

fn operation_of(
    document: &Value,
    method: &Method,
    template: &str,
    shared: Option<&Value>,
    operation: &Value,
) -> Result<Capability, CatalogueError> {
    let text = |key: &str| operation.get(key).and_then(Value::as_str);
    let name = text("operationId").map_or_else(|| made_name(method, template), snake);
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"_-.".contains(&b);
    if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(fits) {
        return Err(CatalogueError::Name(name));
    }
    let sensitivity = match operation.get("x-agentwall-sensitivity") {
        None if matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS) => Sensitivity::Low,
        None if *method == Method::DELETE => Sensitivity::High,
        None => Sensitivity::Medium,
        Some(said) => match said.as_str() {
            Some("low") => Sensitivity::Low,
            Some("medium") => Sensitivity::Medium,
            Some("high") => Sensitivity::High,
            _ => return Err(CatalogueError::Sensitivity(name)),
        },
    };
    let mut properties = Map::new();
    let mut required = Vec::new();
    let mut query = Vec::new();
    let own = operation.get("parameters");
    for parameter in [shared, own]
        .into_iter()
        .flatten()
        .filter_map(Value::as_array)
        .flatten()
    {
        let parameter = resolved(document, parameter);
        let field = |key: &str| parameter.get(key).and_then(Value::as_str);
        let (Some(name), Some(place @ ("path" | "query"))) = (field("name"), field("in")) else {
            continue;
        };
        if place == "query" {
            query.push(name.to_owned());
        }
        if parameter.get("required") == Some(&Value::Bool(true)) {
            required.push(Value::String(name.to_owned()));
        }
        let schema = parameter
            .get("schema")
            .map(|s| resolved(document, s).clone());
        properties.insert(
            name.to_owned(),
            schema.unwrap_or_else(|| Value::Object(Map::new())),
        );
    }
    let body = operation.get("requestBody").map(|b| resolved(document, b));
    let schema = body
        .and_then(|b| b.pointer("/content/application~1json/schema"))
        .map(|s| resolved(document, s));
    if let Some(schema) = schema {
        for (name, schema) in schema
            .get("properties")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
        {
            properties.insert(name.clone(), resolved(document, schema).clone());
        }
        required.extend(
            schema
                .get("required")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .cloned(),
        );
    }
    let kinds = body
        .and_then(|b| b.get("content"))
        .and_then(Value::as_object);
    let opaque = kinds
        .into_iter()
        .flat_map(|kinds| kinds.keys())
        .any(|kind| {
            let kind = kind.to_ascii_lowercase();
            !kind.contains("json") && !kind.starts_with("application/x-www-form-urlencoded")
        });
    let input =
        serde_json::json!({ "type": "object", "properties": properties, "required": required });
    let described = text("summary").or(text("description"));
    Ok(Capability {
        name,
        description: described.map_or_else(|| format!("{method} {template}"), str::to_owned),
        input: Some(input),
        sensitivity,
        opaque,
        route: Some(Route {
            method: method.clone(),
            template: template.to_owned(),
            query,
        }),
    })
}

/// Follows one `$ref` within the document (RFC 6901). More than one step, and other documents, say nothing.
fn resolved<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    let pointer = value.get("$ref").and_then(Value::as_str);
    match pointer.and_then(|p| p.strip_prefix('#')) {
        Some(pointer) => document.pointer(pointer).unwrap_or(value),
        None => value,
    }
}

/// `createTransfer` is `create_transfer`.
fn snake(id: &str) -> String {
    let mut name = String::with_capacity(id.len() + 4);
    let mut before = ' ';
    for c in id.chars() {
        if c.is_ascii_uppercase() && (before.is_ascii_lowercase() || before.is_ascii_digit()) {
            name.push('_');
        }
        name.push(if c == ' ' {
            '_'
        } else {
            c.to_ascii_lowercase()
        });
        before = c;
    }
    name
}

/// For an operation without a name: `get_transfers_id`.
fn made_name(method: &Method, template: &str) -> String {
    let mut name = method.as_str().to_ascii_lowercase();
    for part in template
        .split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|p| !p.is_empty())
    {
        name.push('_');
        name.push_str(&part.to_ascii_lowercase());
    }
    name
}

#[cfg(test)]
#[path = "catalogue_tests.rs"]
mod tests;

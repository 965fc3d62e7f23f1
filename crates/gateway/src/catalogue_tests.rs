use serde_json::json;

use super::*;

fn bank() -> Value {
    json!({
        "openapi": "3.1.0",
        "paths": {
            "/accounts/{id}": {
                "parameters": [{ "$ref": "#/components/parameters/id" }],
                "get": { "operationId": "getAccount", "summary": "One account" },
                "delete": { "operationId": "closeAccount" },
            },
            "/transfers": {
                "get": { "parameters": [{ "name": "limit", "in": "query", "schema": { "type": "integer" } }] },
                "post": {
                    "operationId": "createTransfer",
                    "x-agentwall-sensitivity": "high",
                    "requestBody": { "content": { "application/json": { "schema": { "$ref": "#/components/schemas/Transfer" } } } },
                },
            },
            "/accounts/mine": { "get": { "operationId": "mine" } },
        },
        "components": {
            "parameters": { "id": { "name": "id", "in": "path", "required": true, "schema": { "type": "string" } } },
            "schemas": { "Transfer": { "required": ["amount"], "properties": { "amount": { "type": "number" }, "to": {} } } },
        },
    })
}

#[test]
fn operations_are_capabilities() {
    let catalogue = Catalogue::of_openapi(&bank()).unwrap();
    let names: Vec<_> = catalogue.all().map(|c| c.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "close_account",
            "create_transfer",
            "get_account",
            "get_transfers",
            "mine"
        ]
    );
    let transfer = catalogue.get("create_transfer").unwrap();
    assert_eq!(transfer.sensitivity, Sensitivity::High);
    let input = transfer.input.as_ref().unwrap();
    assert_eq!(input["required"], json!(["amount"]));
    assert_eq!(input["properties"]["amount"]["type"], "number");
    let account = catalogue.get("get_account").unwrap();
    assert_eq!(account.description, "One account");
    assert_eq!(
        account.input.as_ref().unwrap()["properties"]["id"]["type"],
        "string"
    );
    let sensitivity = |name: &str| catalogue.get(name).unwrap().sensitivity;
    assert_eq!(sensitivity("close_account"), Sensitivity::High);
    assert_eq!(sensitivity("get_transfers"), Sensitivity::Low);
    let route = catalogue
        .get("get_transfers")
        .unwrap()
        .route
        .clone()
        .unwrap();
    assert_eq!(route.query, ["limit"]);
}

#[test]
fn a_request_is_a_call_of_one_capability_or_of_none() {
    let catalogue = Catalogue::of_openapi(&bank()).unwrap();
    let find = |method: Method, path: &str| {
        let found = catalogue.find(&method, path)?;
        Some((found.capability.name.clone(), Value::Object(found.path)))
    };
    let is = |name: &str, args: Value| Some((name.to_owned(), args));
    assert_eq!(
        find(Method::GET, "/accounts/a%20b"),
        is("get_account", json!({ "id": "a b" }))
    );
    assert_eq!(
        find(Method::HEAD, "/accounts/7"),
        is("get_account", json!({ "id": "7" }))
    );
    // What is written out comes before what is left open.
    assert_eq!(find(Method::GET, "/accounts/mine"), is("mine", json!({})));
    for (method, path) in [
        (Method::PUT, "/accounts/7"),
        (Method::GET, "/accounts"),
        (Method::GET, "/accounts/"),
        (Method::GET, "/accounts/7/"),
        (Method::GET, "/accounts/7/x"),
        (Method::GET, "/Accounts/7"),
        (Method::GET, "/accounts/%FF"),
        (Method::TRACE, "/transfers"),
        (Method::HEAD, "/nowhere"),
    ] {
        assert_eq!(find(method.clone(), path), None, "{method} {path}");
    }
}

#[test]
fn without_a_document_there_are_reading_and_writing() {
    let catalogue = Catalogue::plain();
    let find = |method: &str| {
        let method: Method = method.parse().unwrap();
        catalogue
            .find(&method, "/any/where")
            .unwrap()
            .capability
            .name
            .clone()
    };
    for method in ["GET", "HEAD"] {
        assert_eq!(find(method), "read");
    }
    for method in ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PURGE", "get"] {
        assert_eq!(find(method), "write");
    }
}

#[test]
fn documents_that_cannot_be_told_apart_are_refused() {
    let of = |paths: Value| {
        Catalogue::of_openapi(&json!({ "openapi": "3.0.3", "paths": paths }))
            .map(|c| c.all().count())
    };
    assert_eq!(of(json!({})), Err(CatalogueError::Nothing));
    assert_eq!(
        of(
            json!({ "/a": { "get": { "operationId": "x" } }, "/b": { "get": { "operationId": "X" } } })
        ),
        Err(CatalogueError::Twice("x".into()))
    );
    assert_eq!(
        of(json!({ "/a": { "get": { "operationId": "a:b" } } })),
        Err(CatalogueError::Name("a:b".into()))
    );
    assert!(matches!(
        of(json!({ "/a/{x}": { "get": {} }, "/a/{y}": { "get": { "operationId": "other" } } })),
        Err(CatalogueError::Route { .. })
    ));
    assert!(matches!(
        of(json!({ "a": { "get": {} } })),
        Err(CatalogueError::Route { .. })
    ));
    assert!(matches!(
        of(json!({ "/a/../b": { "get": {} } })),
        Err(CatalogueError::Route { .. })
    ));
    assert_eq!(
        of(json!({ "/a": { "get": { "x-agentwall-sensitivity": 3 } } })),
        Err(CatalogueError::Sensitivity("get_a".into()))
    );
    for version in [json!("2.0"), json!("4.0"), json!(3), Value::Null] {
        let document = json!({ "openapi": version, "paths": { "/a": { "get": {} } } });
        assert!(matches!(
            Catalogue::of_openapi(&document),
            Err(CatalogueError::Version)
        ));
    }
}

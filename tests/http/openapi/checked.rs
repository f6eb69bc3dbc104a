//! Checks responses against the OpenAPI description.

use payonce_testing::client::Response;
use serde_json::{Map, Value};

/// An OpenAPI description.
pub struct Description(pub Value);

impl Description {
    /// Resolves a reference.
    pub fn resolved<'a>(&'a self, value: &'a Value) -> &'a Value {
        match value["$ref"].as_str() {
            Some(reference) => self.0.pointer(&reference[1..]).expect(reference),
            None => value,
        }
    }

    /// Every operation: path, method and description.
    pub fn operations(&self) -> Vec<(&str, &str, &Value)> {
        let mut operations = Vec::new();
        for (path, methods) in self.0["paths"].as_object().unwrap() {
            for (method, said) in methods.as_object().unwrap() {
                operations.push((path.as_str(), method.as_str(), said));
            }
        }
        operations
    }

    /// Asserts that the operation's description contains this response: status, headers, content type
    /// and every field of the body.
    #[track_caller]
    pub fn assert_says(&self, method: &str, path: &str, response: &Response) {
        let place = format!("{method} {path} {}", response.status);
        let described = &self.0["paths"][path][method]["responses"][response.status.to_string()];
        assert!(described.is_object(), "{place} is not described: {}", response.body);
        let headers = described["headers"].as_object().unwrap();
        for (name, header) in headers {
            let header = self.resolved(header);
            match response.headers.get(name) {
                Some(value) => {
                    let text = value.to_str().unwrap();
                    let value = match header["schema"]["type"].as_str() {
                        Some("integer") => serde_json::from_str(text).unwrap(),
                        _ => text.into(),
                    };
                    self.check(&header["schema"], &value, &format!("{place} {name}"));
                }
                None => assert!(header["required"] != true, "{place} lacks {name}"),
            }
        }
        for name in response.headers.keys().map(reqwest::header::HeaderName::as_str) {
            let of_http = [
                "connection",
                "content-length",
                "content-type",
                "content-encoding",
                "date",
                "x-content-type-options",
            ];
            let said = headers.keys().any(|said| said.eq_ignore_ascii_case(name));
            assert!(said || of_http.contains(&name), "{place} has an undescribed {name}");
        }
        if response.status == 204 {
            assert_eq!(
                (response.body.as_str(), described["content"].as_object()),
                ("", Some(&Map::new()))
            );
            return;
        }
        let media_type = response.header("content-type").split(';').next().unwrap();
        let content = &described["content"][media_type];
        assert!(content.is_object(), "{place} is of an undescribed type: {media_type}");
        if media_type.ends_with("json") {
            self.check(&content["schema"], &response.json(), &place);
        }
    }

    /// Asserts that a value matches a schema and has no other fields. `scripts/contract-tests` checks patterns,
    /// formats and lengths.
    #[track_caller]
    pub fn check(&self, schema: &Value, value: &Value, place: &str) {
        let schema = self.resolved(schema);
        if let Some(choices) = schema["anyOf"].as_array() {
            assert_eq!(choices[1]["type"], "null");
            if !value.is_null() {
                self.check(&choices[0], value, place);
            }
            return;
        }
        if let Some(choices) = schema["oneOf"].as_array() {
            let required = |choice: &&Value| {
                let names = self.resolved(choice)["required"].as_array().unwrap();
                names.iter().all(|name| value.get(name.as_str().unwrap()).is_some())
            };
            let choice = choices.iter().find(required);
            self.check(choice.unwrap_or_else(|| panic!("{place}: {value}")), value, place);
        }
        for part in schema["allOf"].as_array().into_iter().flatten() {
            match part["properties"]["code"]["enum"].as_array() {
                Some(codes) => {
                    assert!(codes.contains(&value["code"]), "{place}: {}", value["code"]);
                }
                None => self.check(part, value, place),
            }
        }
        let is = |name: &str| match name {
            "null" => value.is_null(),
            "boolean" => value.is_boolean(),
            "string" => value.is_string(),
            "integer" => value.is_u64(),
            "number" => value.is_number(),
            "array" => value.is_array(),
            "object" => value.is_object(),
            other => panic!("{place}: {other}"),
        };
        let fits = match &schema["type"] {
            Value::String(name) => is(name),
            Value::Array(names) => names.iter().any(|name| is(name.as_str().unwrap())),
            _ => true,
        };
        let number = value.as_u64().unwrap_or(1);
        let holds = fits
            && schema["enum"].as_array().is_none_or(|choices| choices.contains(value))
            && schema.get("const").is_none_or(|constant| constant == value)
            && schema["minimum"].as_u64().is_none_or(|least| number >= least)
            && schema["maximum"].as_u64().is_none_or(|most| number <= most);
        assert!(holds, "{place}: {value} is not what {schema} says");
        for item in value.as_array().into_iter().flatten() {
            self.check(&schema["items"], item, place);
        }
        if let (Some(members), Some(said)) = (value.as_object(), schema["properties"].as_object()) {
            self.check_members(schema, said, members, place);
        }
    }

    #[track_caller]
    fn check_members(
        &self,
        schema: &Value,
        said: &Map<String, Value>,
        members: &Map<String, Value>,
        place: &str,
    ) {
        for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            assert!(members.contains_key(name), "{place}: {name} is missing");
        }
        for (name, value) in members {
            let schema =
                said.get(name).unwrap_or_else(|| panic!("{place}: {name} is not described"));
            self.check(schema, value, &format!("{place} {name}"));
        }
    }
}

//! JSON schemas of types as Markdown: a section for each type.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use schemars::generate::{SchemaGenerator, SchemaSettings};
use serde_json::{Map, Value};

/// The types that have been told about, and how to tell of the others.
pub(crate) struct Types<'a> {
    generator: SchemaGenerator,
    /// What comments may link to besides types, and what it is on the page.
    constants: &'a [(&'a str, String)],
    told: BTreeSet<String>,
}

impl<'a> Types<'a> {
    pub(crate) fn new(constants: &'a [(&'a str, String)]) -> Self {
        // What is written, not what is accepted: there all fields are required, and that list is
        // the only one in the order of the source.
        let settings = SchemaSettings::draft2020_12().for_serialize();
        Self {
            generator: settings.into_generator(),
            constants,
            told: BTreeSet::new(),
        }
    }

    /// Sections of a type and of those in it, as far as there is none yet.
    pub(crate) fn sections<T: JsonSchema>(&mut self) -> String {
        let schema = self.generator.subschema_for::<T>();
        let mut names = Vec::new();
        references(schema.as_value(), &mut names);
        names.iter().map(|name| self.section(name)).collect()
    }

    /// The section of a type, and those of the types in it after it.
    fn section(&mut self, name: &str) -> String {
        if !self.told.insert(name.to_owned()) {
            return String::new();
        }
        let schema = self.generator.definitions()[name].clone();
        let mut text = format!("### {name}\n\n{}\n\n", self.comment(&schema, name));
        let mut inner = Vec::new();
        let variants = schema.get("oneOf").and_then(Value::as_array);
        if schema.get("properties").is_some() {
            text += "| Field | Type | Meaning |\n|---|---|---|\n";
            text += &self.fields(&schema, name, &mut inner);
            let mut alternatives = Vec::new();
            for variant in variants.into_iter().flatten() {
                text += &self.fields(variant, name, &mut inner);
                let fields = order(variant)
                    .iter()
                    .map(|name| format!("`{}`", string(name)));
                alternatives.push(format!("({})", fields.collect::<Vec<_>>().join(", ")));
            }
            if !alternatives.is_empty() {
                text += &format!("\nOf these, one at a time: {}.\n", alternatives.join(", "));
            }
        } else {
            text += "| Value | Meaning |\n|---|---|\n";
            for variant in variants.expect("a type has fields or values") {
                let meaning = self.comment(variant, name);
                text += &format!("| `{}` | {meaning} |\n", string(&variant["const"]));
            }
        }
        text.push('\n');
        for name in inner {
            text += &self.section(&name);
        }
        text
    }

    /// Rows of an object's fields, and the types that they name.
    fn fields(&self, object: &Value, of: &str, inner: &mut Vec<String>) -> String {
        let properties = object["properties"].as_object().expect("it is an object");
        let order = order(object);
        assert_eq!(properties.len(), order.len(), "{of} leaves fields out");
        let row = |name: &Value| {
            let name = string(name);
            let field = &properties[name];
            references(field, inner);
            // Alternatives are commented as a whole, which is said beside their first field.
            let commented = if field.get("description").is_some() {
                field
            } else {
                object
            };
            let mut meaning = self.comment(commented, &format!("{of}.{name}"));
            if let Some(default) = field.get("default") {
                meaning += &format!(" May be left out: {default}.");
            }
            format!("| `{name}` | {} | {meaning} |\n", kind(field))
        };
        order.iter().map(row).collect()
    }

    /// The comment of a type, field or value on one line, its links resolved.
    fn comment(&self, schema: &Value, of: &str) -> String {
        let comment = schema.get("description");
        let comment = comment.unwrap_or_else(|| panic!("{of} has no comment"));
        let comment = string(comment).replace('\n', " ").replace('|', "\\|");
        let mut rest = comment.as_str();
        let mut text = String::new();
        while let Some((before, link)) = rest.split_once("[`") {
            let (name, after) = link.split_once("`]").expect("a link ends");
            let path = after
                .strip_prefix('(')
                .and_then(|path| path.split_once(')'));
            rest = path.map_or(after, |(_, after)| after);
            text += before;
            text += &self.link(name, of);
        }
        text + rest
    }

    /// What a link to `name` becomes.
    fn link(&self, name: &str, of: &str) -> String {
        if self.generator.definitions().contains_key(name) {
            return anchor(name);
        }
        let constant = self.constants.iter().find(|(known, _)| *known == name);
        let (_, value) = constant.unwrap_or_else(|| panic!("{of} links to {name}: what is it?"));
        value.clone()
    }
}

fn anchor(name: &str) -> String {
    format!("[{name}](#{})", name.to_lowercase())
}

/// Names of an object's fields, in the order of the source.
fn order(object: &Value) -> &[Value] {
    object["required"].as_array().expect("all are required")
}

fn string(value: &Value) -> &str {
    value.as_str().expect("it is a string")
}

/// Name of the type that a schema refers to.
fn reference(schema: &Map<String, Value>) -> Option<&str> {
    string(schema.get("$ref")?).strip_prefix("#/$defs/")
}

/// Names of all types that a schema mentions.
fn references(schema: &Value, names: &mut Vec<String>) {
    match schema {
        Value::Object(schema) => {
            names.extend(reference(schema).map(str::to_owned));
            schema.values().for_each(|inner| references(inner, names));
        }
        Value::Array(inner) => inner.iter().for_each(|inner| references(inner, names)),
        _ => {}
    }
}

/// A type as the page calls it.
fn kind(schema: &Value) -> String {
    let kinds = |schemas: &[Value], between: &str| {
        let kinds: Vec<_> = schemas.iter().map(kind).collect();
        kinds.join(between)
    };
    let schema = schema.as_object().expect("it is a schema");
    if let Some(name) = reference(schema) {
        return anchor(name);
    }
    if let Some(value) = schema.get("const") {
        return format!("`{value}`");
    }
    if let Some(Value::Array(choices)) = schema.get("anyOf") {
        return kinds(choices, " or ");
    }
    let plain = |name: &str| match (name, schema.get("format")) {
        ("integer", Some(format)) => string(format).replace("uint", "u"),
        ("array", _) => match schema.get("prefixItems") {
            Some(Value::Array(items)) => format!("[{}]", kinds(items, ", ")),
            _ => format!("list of {}", kind(&schema["items"])),
        },
        ("object", _) => "`{}`".to_owned(),
        _ => name.to_owned(),
    };
    match schema.get("type") {
        Some(Value::Array(choices)) => {
            let choices: Vec<_> = choices.iter().map(|name| plain(string(name))).collect();
            choices.join(" or ")
        }
        Some(name) => plain(string(name)),
        None => panic!("what is {}?", Value::from(schema.clone())),
    }
}

//! Plans as JSON, for programs.

use std::io::Write;

use hob::catalogue::Use;
use hob::machine::Memory;
use hob::plan::{Ask, Choice, Plan, best, tier};
use serde_json::{Value, json};

use super::{Machine, Subject, best_type, kinds_of_cache, plans};
use crate::failure::Failure;

pub(super) fn overview(choices: &[Choice], machine: &Machine, elsewhere: &[u64], out: &mut dyn Write) -> std::io::Result<()> {
    let names = |memory: &Memory| -> Value {
        let of = |wanted: Use| (wanted.name().to_owned(), best(choices, wanted, memory).iter().map(|c| json!(c.entry.name)).collect());
        Value::Object(Use::ALL.into_iter().map(of).collect())
    };
    let tiers: serde_json::Map<String, Value> = elsewhere.iter().map(|gb| (format!("{gb}"), names(&Memory::of_size(gb << 30)))).collect();
    let models: Vec<Value> = choices
        .iter()
        .map(|c| {
            json!({
                "name": c.entry.name,
                "title": c.entry.title,
                "parameters": c.entry.parameters,
                "active": c.entry.active,
                "type": c.kind.name(),
                "file_bytes": c.plan.file_bytes(),
                "resident": c.plan.resident(),
                "fits": c.plan.fits(&machine.memory).is_yes(),
                "tier": tier(&c.plan),
                "prompt_per_second": c.speed.map(|s| s.prompt),
                "answer_per_second": c.speed.map(|s| s.answer),
                "uses": c.entry.uses.iter().map(|u| u.name()).collect::<Vec<_>>(),
                "thinking": c.entry.thinking.name(),
                "license": c.entry.license,
                "repository": c.entry.repository,
            })
        })
        .collect();
    let all = json!({ "machine": about(machine), "here": names(&machine.memory), "tiers": tiers, "models": models });
    serde_json::to_writer_pretty(&mut *out, &all)?;
    writeln!(out)
}

pub(super) fn about(machine: &Machine) -> Value {
    let Machine { memory, profile, .. } = machine;
    json!({
        "memory_total": memory.total,
        "memory_available": memory.available,
        "supposed": machine.supposed,
        "threads": profile.of.threads,
        "level": profile.of.level,
        "read_bytes_per_second": profile.read,
        "int8_products_per_second": profile.int8,
        "measured": profile.measured,
    })
}

pub(super) fn one(subject: &Subject, plan: &Plan, machine: &Machine, ask: &Ask) -> Result<Value, Failure> {
    let (memory, speed) = (&machine.memory, plan.speed(&machine.profile));
    let (k, v) = plan.cache_types();
    let contexts: serde_json::Map<String, Value> =
        kinds_of_cache().into_iter().map(|kind| (kind.name().to_owned(), json!(plan.largest_context(memory, kind, kind)))).collect();
    let weights: serde_json::Map<String, Value> =
        plan.weights().iter().map(|(part, bytes)| (part.name().to_owned(), json!(bytes))).collect();
    let mut object = json!({
        "title": subject.title(),
        "architecture": plan.architecture(),
        "file_bytes": plan.file_bytes(),
        "context": plan.context(),
        "context_trained": plan.trained(),
        "context_that_fits": contexts,
        "cache_types": [k.name(), v.name()],
        "weights": weights,
        "weights_resident": plan.weights_resident(),
        "cache": plan.cache(),
        "recurrent": plan.recurrent(),
        "marks": plan.marks(),
        "scratch": plan.scratch(),
        "program": plan.program(),
        "resident": plan.resident(),
        "fits": plan.fits(memory).is_yes(),
        "tier": tier(plan),
        "prompt_per_second": speed.prompt,
        "answer_per_second": speed.answer,
        "answer_per_second_full": speed.answer_full,
    });
    if let Subject::Known(entry, kind) = subject {
        let plans = plans(entry, ask)?;
        object["name"] = json!(entry.name);
        object["type"] = json!(kind.name());
        object["repository"] = json!(entry.repository);
        object["best_type"] = json!(best_type(&plans, machine).map(|at| plans[at].0.name()));
    }
    Ok(object)
}

//! `plimsoll webhook`

use std::io::Read;
use std::path::Path;

use serde_json::{Value, json};

use super::args::{Webhook, WebhookAdd};
use super::client::{Request, segment};
use super::exists::as_wanted;
use super::filter::text;
use super::pool::with;
use super::run::Context;
use super::table;
use crate::model::AddWebhook;
use crate::problem::{Answer, Problem};

/// One more than a secret can have.
const SECRET_BYTES_READ: u64 = 300;

pub(super) fn run(cx: &Context<'_>, command: Webhook) -> Answer<()> {
    match command {
        Webhook::List => cx.render.list(&table::WEBHOOK, cx.client.get("/api/v1/webhooks")?),
        Webhook::Show { webhook } => cx.render.object(&cx.client.get(&target(&webhook))?),
        Webhook::Add(args) => add(cx, args),
        Webhook::Remove { webhook, if_exists, how } => {
            match cx.client.send(Request::new("DELETE", &with(&target(&webhook), how.dry_run))) {
                Err(problem) if if_exists && problem.code == "not-found" => Ok(()),
                Err(problem) => Err(problem),
                Ok(plan) if how.dry_run => cx.render.plan(&plan),
                Ok(answer) => cx.render.changed(&format!("webhook {webhook} removed"), &answer),
            }
        }
        Webhook::Test { webhook, how } => {
            let at = with(&format!("{}/test", target(&webhook)), how.dry_run);
            let answer = cx.client.send(Request::new("POST", &at))?;
            if how.dry_run {
                return cx.render.plan(&answer);
            }
            let part = |name: &str| answer.get(name).map(text).unwrap_or_default();
            let took = answer.get("milliseconds").and_then(Value::as_u64).unwrap_or(0);
            let said = format!("webhook {webhook} answered {} {}", part("status"), after(took));
            cx.render.changed(&said, &answer)
        }
    }
}

fn add(cx: &Context<'_>, args: WebhookAdd) -> Answer<()> {
    let WebhookAdd { webhook, url, secret_file, severity, after, how, if_not_exists } = args;
    let secret = secret(&secret_file)?;
    let request = AddWebhook { name: webhook.clone(), url, secret, severity: severity.map(Into::into), after };
    let at = with("/api/v1/webhooks", how.dry_run);
    match cx.client.send(Request::new("POST", &at).body(&request)?) {
        Err(problem) if if_not_exists && problem.code == "exists" => {
            let severity = request.severity.map(|severity| json!(severity));
            let wanted = [("url", Some(json!(request.url))), ("severity", severity)];
            as_wanted(cx, ("webhook", &webhook), &cx.client.get(&target(&webhook))?, &wanted)?;
            // It has one, and nobody is ever told which.
            eprintln!("its secret was not compared with this one; to be sure, remove the webhook and add it again");
            Ok(())
        }
        Err(problem) => Err(problem),
        Ok(plan) if how.dry_run => cx.render.plan(&plan),
        Ok(answer) => {
            cx.render.changed(&format!("webhook {webhook} added; try it: plimsoll webhook test {webhook}"), &answer)
        }
    }
}

fn after(milliseconds: u64) -> String {
    match milliseconds {
        0 => "within 1 ms".to_owned(),
        some => format!("after {some} ms"),
    }
}

fn target(webhook: &str) -> String {
    format!("/api/v1/webhooks/{}", segment(webhook))
}

/// The first line of a file, without its end.
fn secret(path: &Path) -> Answer<String> {
    let cannot = |error: std::io::Error| {
        Problem::new("invalid-argument", format!("the secret cannot be read from {}: {error}", path.display()))
            .hint("openssl rand -hex 32 > secret.txt; then --secret-file secret.txt")
    };
    let mut secret = String::new();
    if path == Path::new("-") {
        std::io::stdin().lock().take(SECRET_BYTES_READ).read_to_string(&mut secret).map_err(cannot)?;
    } else {
        let file = std::fs::File::open(path).map_err(cannot)?;
        file.take(SECRET_BYTES_READ).read_to_string(&mut secret).map_err(cannot)?;
    }
    Ok(secret.trim_end_matches(['\n', '\r']).to_owned())
}

#[cfg(test)]
mod tests {
    #[test]
    fn an_answer_that_came_at_once_did_not_take_0_ms() {
        assert_eq!([super::after(0), super::after(7)], ["within 1 ms", "after 7 ms"]);
    }
}

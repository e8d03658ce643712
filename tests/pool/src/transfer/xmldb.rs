//! `GET /pool/xmldbdump`: the whole database as XML, for the backup of pool metadata. Opaque to its readers.

use std::io;

use tokio::io::AsyncWriteExt;

use super::{Refusal, Stream, begin, finish, own_task};
use crate::db::Db;
use crate::rpc::Cx;
use crate::value::{Failure, Value};
use crate::wire::xmlrpc::escape;

pub(super) async fn dump(cx: &Cx, stream: &mut Stream) -> Result<io::Result<()>, Refusal> {
    if cx.world.coordinator().number != cx.host {
        return Err(Failure::new("HOST_IS_SLAVE", &[&cx.world.coordinator().address]).into());
    }
    let cx = own_task(cx, "pool.xmldbdump");
    let xml = cx.world.read(render);
    let sent = async {
        begin(stream, "1.1", &cx.task, "text/xml", "xapi-db.xml").await?;
        stream.write_all(xml.as_bytes()).await?;
        stream.flush().await
    }
    .await;
    let outcome = sent.as_ref().map(|()| Value::Void).map_err(Failure::internal);
    finish(&cx, outcome, None);
    Ok(sent)
}

fn render(db: &Db) -> String {
    let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<database><manifest>");
    let generation = db.generations().0.to_string();
    for (name, value) in
        [("schema_major_vsn", "5"), ("schema_minor_vsn", "700"), ("generation_count", generation.as_str())]
    {
        xml.push_str(&format!("<pair key=\"{name}\" value=\"{value}\"/>"));
    }
    xml.push_str("</manifest>");
    for (class, table) in db.tables().filter(|(class, _)| *class != "session") {
        xml.push_str(&format!("<table name=\"{class}\">"));
        for (reference, row) in &table.rows {
            xml.push_str(&format!("<row ref=\"{reference}\" __ctime=\"{}\" __mtime=\"{}\"", row.created, row.changed));
            for (field, value) in &row.record {
                xml.push_str(&format!(" {field}=\""));
                match value {
                    Value::Str(text) => escape(&mut xml, text),
                    other => escape(&mut xml, &other.to_json().to_string()),
                }
                xml.push('"');
            }
            xml.push_str("/>");
        }
        xml.push_str("</table>");
    }
    xml.push_str("</database>");
    xml
}

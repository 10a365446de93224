"""The ClientApp: a process for each message, which hands it to the trainer and the answer back.

The folder of the trainer comes from the node: --node-config 'trainer="FOLDER"'.
"""

from __future__ import annotations

from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from flexlora.errors import ConfigError, FlexLoRAError
from flexlora.flower.content import content_of, packet_of
from flexlora.flower.local import ask
from flexlora.flower.packets import FAILURE, Packet, packed, read_header

app = ClientApp()
KEY = "trainer"


@app.query()
@app.train()
@app.evaluate()
def answer(message: Message, context: Context) -> Message:
    header, body = packet_of(message)
    try:
        found = ask(_folder(context), header, body)
    except FlexLoRAError as error:
        asked = read_header(header).packet.address
        found = packed(Packet(FAILURE, asked, {}, {"reason": str(error)}))
    return Message(content_of(*found), reply_to=message)


def _folder(context: Context) -> Path:
    given = context.node_config.get(KEY)
    if not isinstance(given, str) or not given:
        raise ConfigError(
            f"the node was not told where its trainer is; start it with --node-config "
            f"'{KEY}=\"FOLDER\"', the client.folder of the client's file"
        )
    return Path(given)

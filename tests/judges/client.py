"""Drives a VM with the client that openapi-python-client has made of the document: `client.py FOLDER URL IMAGE`."""

import sys

sys.path.insert(0, sys.argv[1])
from made import Client  # noqa: E402
from made.api.lifecycle_management import delete_vm, start_vm, stop_vm  # noqa: E402
from made.api.vm_configuration import update_vm  # noqa: E402
from made.api.vm_information import get_vm, list_v_ms  # noqa: E402
from made.api.vm_provisioning import create_vm  # noqa: E402
from made.models import CreateBody, NoFields, StopBody, WholeBody  # noqa: E402

client = Client(base_url=sys.argv[2], raise_on_unexpected_status=True)


def ask(operation, *args, status=200, **more):
    answer = operation.sync_detailed(*args, client=client, **more)
    assert answer.status_code == status, (operation.__name__, answer)
    return answer.parsed


body = CreateBody(vcpus=1, memory=64, disk_size=1, base_image=sys.argv[3], name="made")
made = ask(create_vm, body=body, status=201)
assert (made.name, made.vcpus, made.status) == ("made", 1, "created"), made
ask(start_vm, made.id, body=NoFields())
told = ask(get_vm, made.id)
assert str(told.status) == "running" and told.name == "made", told
changed = ask(update_vm, made.id, body=WholeBody(name="changed", description="by a generated client"))
assert (changed.name, changed.description) == ("changed", "by a generated client"), changed
rows = ask(list_v_ms)
assert [row.name for row in rows] == ["changed"], rows
stopped = ask(stop_vm, made.id, body=StopBody(force=True))
assert str(stopped.status) == "stopped", stopped
ask(delete_vm, made.id)
gone = ask(get_vm, made.id, status=404)
assert "not found" in gone.error.message, gone

"""A small Terraform provider for the Hyper-V dialect, for tests/api/terraform.rs: switches, VMs and network adapters, known by
their Id alone. It is a client like any other and uses nothing of qherd but its documented requests."""

import functools
import json
import sys
import time
import urllib.error
import urllib.request
import uuid

from tf.iface import DataSource, Provider, Resource
from tf.runner import run_provider
from tf.schema import Attribute, Schema
from tf.types import Bool, List, Number, String

TIMEOUT = 300  # seconds for one request on a busy machine
TRIES = 5


class Refused(Exception):
    """An answer other than 2xx: the dialect's `error` and `detail`."""

    def __init__(self, request, status, body):
        self.status = status
        told = body if isinstance(body, dict) else {}
        super().__init__(f"{request}: {status} {told.get('error', body)} {told.get('detail', '')}".strip())


class Client:
    def __init__(self, url):
        self.url = url.rstrip("/")

    def ask(self, method, path, body=None):
        """The answer's JSON. A POST carries a key, so that it can be sent again when its connection breaks."""
        headers = {"Content-Type": "application/json"}
        if method == "POST":
            headers["Idempotency-Key"] = str(uuid.uuid4())
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data, method=method, headers=headers)
        for attempt in range(1, TRIES + 1):
            try:
                with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
                    return json.load(answer)
            except urllib.error.HTTPError as error:
                text = error.read().decode(errors="replace")
                if error.code != 503 or attempt == TRIES:
                    try:
                        told = json.loads(text)
                    except ValueError:
                        told = text
                    raise Refused(f"{method} {path}", error.code, told) from None
            except (urllib.error.URLError, ConnectionError):
                if attempt == TRIES:
                    raise
            time.sleep(attempt)

    def find(self, path):
        """None where there is no such thing."""
        try:
            return self.ask("GET", path)
        except Refused as refused:
            if refused.status == 404:
                return None
            raise

    def remove(self, path):
        """Gone already is gone as well."""
        try:
            self.ask("DELETE", path)
        except Refused as refused:
            if refused.status != 404:
                raise


def told(operation):
    """Failures become diagnostics, which Terraform shows beside the resource."""

    @functools.wraps(operation)
    def wrapper(self, ctx, *args):
        try:
            return operation(self, ctx, *args)
        except (Refused, OSError) as error:
            ctx.diagnostics.add_error(f"{operation.__name__} {ctx.type_name}", str(error))
            return args[0] if operation.__name__ in ("read", "update") else None

    return wrapper


class Base:
    """What knows its provider's client."""

    def __init__(self, provider):
        self.provider = provider

    @property
    def client(self):
        return self.provider.client


def fixed(name, kind, **more):
    """An attribute whose change makes a new thing."""
    return Attribute(name, kind, requires_replace=True, **more)


ID = Attribute("id", String(), computed=True)


class Switch(Base, Resource):
    @classmethod
    def get_name(cls):
        return "switch"

    @classmethod
    def get_schema(cls):
        return Schema(
            version=1,
            attributes=[
                ID,
                fixed("name", String(), required=True),
                fixed("type", String(), required=True),
                fixed("net_adapter_name", String(), optional=True),
                Attribute("notes", String(), optional=True, computed=True, default=""),
            ],
        )

    @told
    def create(self, ctx, planned):
        wish = {"name": planned["name"], "type": planned["type"]}
        if planned["net_adapter_name"]:
            wish["netAdapterName"] = planned["net_adapter_name"]
        made = {**planned, "id": self.client.ask("POST", "/switches", wish)["id"]}
        # One that is there is remembered, also when the rest fails: `update` gives back what it was handed then.
        return self.update(ctx, {**made, "notes": ""}, made) if planned["notes"] else made

    @told
    def read(self, ctx, current):
        found = self.client.find(f"/switches/{current['id']}")
        if found is None:
            return None
        return {**current, "name": found["Name"], "type": found["SwitchType"], "notes": found["Notes"]}

    @told
    def update(self, ctx, current, planned):
        self.client.ask("PUT", f"/switches/{current['id']}", {"notes": planned["notes"]})
        return planned

    @told
    def delete(self, ctx, current):
        self.client.remove(f"/switches/{current['id']}")


class Vm(Base, Resource):
    @classmethod
    def get_name(cls):
        return "vm"

    @classmethod
    def get_schema(cls):
        return Schema(
            version=1,
            attributes=[
                ID,
                fixed("name", String(), required=True),
                Attribute("memory_mb", Number(), required=True),
                Attribute("vcpu", Number(), required=True),
                fixed("disk_path", String(), required=True),
                fixed("disk_gb", Number(), required=True),
                fixed("switch_id", String(), optional=True),
                Attribute("iso_path", String(), optional=True),
                Attribute("running", Bool(), optional=True, computed=True, default=False),
            ],
        )

    @told
    def create(self, ctx, planned):
        wish = {
            "name": planned["name"],
            "memoryMB": planned["memory_mb"],
            "vcpu": planned["vcpu"],
            "diskPath": planned["disk_path"],
            "diskGB": planned["disk_gb"],
        }
        if planned["switch_id"]:
            wish["switchId"] = planned["switch_id"]
        if planned["iso_path"]:
            wish["isoPath"] = planned["iso_path"]
        made = {**planned, "id": self.client.ask("POST", "/vms", wish)["id"]}
        return self.update(ctx, {**made, "running": False}, made) if planned["running"] else made

    @told
    def read(self, ctx, current):
        found = self.client.find(f"/vms/{current['id']}")
        if found is None:
            return None
        return {
            **current,
            "name": found["Name"],
            "memory_mb": found["MemoryStartup"] // 2**20,
            "vcpu": found["ProcessorCount"],
            "running": found["State"] != "Off",
        }

    @told
    def update(self, ctx, current, planned):
        path = f"/vms/{current['id']}"
        fields = {"memory_mb": "memoryMB", "vcpu": "vcpu", "iso_path": "isoPath"}
        change = {theirs: planned[ours] for ours, theirs in fields.items() if planned[ours] != current[ours]}
        if change:
            self.power(current["id"], False)
            self.client.ask("PUT", path, change)
        self.power(current["id"], planned["running"])
        return planned

    @told
    def delete(self, ctx, current):
        self.client.remove(f"/vms/{current['id']}")

    def power(self, vm, on):
        path = f"/vms/{vm}"
        if on:
            self.client.ask("POST", f"{path}/start")
        elif self.client.ask("GET", path)["State"] != "Off":
            self.client.ask("POST", f"{path}/stop", {"force": True})


class NetworkAdapter(Base, Resource):
    @classmethod
    def get_name(cls):
        return "network_adapter"

    @classmethod
    def get_schema(cls):
        return Schema(
            version=1,
            attributes=[
                ID,
                fixed("vm_id", String(), required=True),
                fixed("switch_name", String(), required=True),
                Attribute("mac_address", String(), computed=True),
            ],
        )

    @told
    def create(self, ctx, planned):
        made = self.client.ask("POST", self.path(planned), {"switchName": planned["switch_name"]})
        return self.read(ctx, {**planned, "id": made["id"]})

    @told
    def read(self, ctx, current):
        adapters = self.client.find(self.path(current)) or []
        for found in adapters:
            if found["Id"] == current["id"]:
                return {**current, "switch_name": found["SwitchName"], "mac_address": found["MacAddress"]}
        return None

    @told
    def update(self, ctx, current, planned):
        return planned

    @told
    def delete(self, ctx, current):
        self.client.remove(f"{self.path(current)}/{current['id']}")

    @staticmethod
    def path(state):
        return f"/vms/{state['vm_id']}/network-adapters"


class ByName(Base, DataSource):
    """The ids of everything with a name: discovery, as the document has it."""

    kind = ""

    @classmethod
    def get_name(cls):
        return cls.kind

    @classmethod
    def get_schema(cls):
        return Schema(
            version=1,
            attributes=[Attribute("name", String(), required=True), Attribute("ids", List(String()), computed=True)],
        )

    @told
    def read(self, ctx, config):
        found = self.client.ask("GET", f"/{self.kind}/by-name/{urllib.request.quote(config['name'], safe='')}")
        return {"name": config["name"], "ids": [thing["Id"] for thing in found]}


class Vms(ByName):
    kind = "vms"


class Switches(ByName):
    kind = "switches"


class Qherd(Provider):
    client = None

    def get_model_prefix(self):
        return "qherd_"

    def get_provider_schema(self, diags):
        return Schema(version=1, attributes=[Attribute("url", String(), required=True)])

    def full_name(self):
        return "qherd.test/qherd/qherd"

    def validate_config(self, diags, config):
        pass

    def configure_provider(self, diags, config):
        self.client = Client(config["url"])

    def get_data_sources(self):
        return [Vms, Switches]

    def get_resources(self):
        return [Switch, Vm, NetworkAdapter]


if __name__ == "__main__":
    run_provider(Qherd(), sys.argv)

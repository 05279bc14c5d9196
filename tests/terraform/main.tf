# Five VMs on one switch, each with a second adapter, as tests/api/terraform.rs applies, changes and destroys them.
terraform {
  required_providers {
    qherd = { source = "qherd.test/qherd/qherd" }
  }
}

variable "url" { type = string }
variable "disk_path" { type = string }
variable "memory_mb" { type = number }
variable "vcpu" { type = number }
variable "notes" { type = string }

provider "qherd" {
  url = var.url
}

resource "qherd_switch" "lan" {
  name  = "LAN"
  type  = "Private"
  notes = var.notes
}

resource "qherd_vm" "node" {
  count     = 5
  name      = "node${count.index}"
  memory_mb = var.memory_mb
  vcpu      = var.vcpu
  disk_path = var.disk_path
  disk_gb   = 1
  switch_id = qherd_switch.lan.id
  running   = true
}

resource "qherd_network_adapter" "second" {
  count       = 5
  vm_id       = qherd_vm.node[count.index].id
  switch_name = qherd_switch.lan.name
}

data "qherd_switches" "lan" {
  name       = "lan"
  depends_on = [qherd_switch.lan]
}

output "vms" { value = qherd_vm.node[*].id }
output "switch" { value = qherd_switch.lan.id }
output "macs" { value = qherd_network_adapter.second[*].mac_address }
output "found" { value = data.qherd_switches.lan.ids }

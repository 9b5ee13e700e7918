// Package subresourcesv1beta1 stands in for what virt-template's API server takes and answers.
package subresourcesv1beta1

import v1 "kubevirt.io/api/core/v1"

type ProcessOptions struct{ Parameters map[string]string }

type ProcessedVirtualMachineTemplate struct {
	VirtualMachine *v1.VirtualMachine
	Message        string
}

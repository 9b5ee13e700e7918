// Package template stands in for what fills a virt-template's parameters in; it only says that it does not.
package template

import (
	"errors"

	"k8s.io/apimachinery/pkg/util/validation/field"
	v1 "kubevirt.io/api/core/v1"

	"kubevirt.io/virt-template-api/core/v1beta1"
)

var errAbsent = errors.New("this build of KubeVirt has no virt-template")

func MergeParameters([]v1beta1.Parameter, map[string]string) ([]v1beta1.Parameter, error) {
	return nil, errAbsent
}

func ValidateParameterReferences(*v1beta1.VirtualMachineTemplate) ([]string, field.ErrorList) {
	return nil, nil
}

type Processor struct{}

func GetDefaultProcessor() Processor { return Processor{} }

func (Processor) Process(*v1beta1.VirtualMachineTemplate) (*v1.VirtualMachine, string, error) {
	return nil, "", errAbsent
}

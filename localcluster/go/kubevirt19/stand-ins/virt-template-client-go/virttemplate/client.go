// Package virttemplate stands in for the client of virt-template. There is none: virt-template is not part of the local
// cluster, and whatever asks for its client is told so.
package virttemplate

import (
	"context"
	"errors"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"kubevirt.io/virt-template-api/core/subresourcesv1beta1"
	"kubevirt.io/virt-template-api/core/v1beta1"
)

// NewForConfig always fails, so nobody has to implement the interfaces below.
func NewForConfig(*rest.Config) (Interface, error) {
	return nil, errors.New("this build of KubeVirt has no virt-template")
}

type Interface interface{ TemplateV1beta1() TemplateV1beta1 }

type TemplateV1beta1 interface {
	RESTClient() rest.Interface
	VirtualMachineTemplates(namespace string) VirtualMachineTemplates
	VirtualMachineTemplateRequests(namespace string) VirtualMachineTemplateRequests
}

type VirtualMachineTemplates interface {
	Get(context.Context, string, metav1.GetOptions) (*v1beta1.VirtualMachineTemplate, error)
	Process(context.Context, string, subresourcesv1beta1.ProcessOptions) (
		*subresourcesv1beta1.ProcessedVirtualMachineTemplate, error)
	CreateVirtualMachine(context.Context, string, subresourcesv1beta1.ProcessOptions) (
		*subresourcesv1beta1.ProcessedVirtualMachineTemplate, error)
}

type VirtualMachineTemplateRequests interface {
	Create(context.Context, *v1beta1.VirtualMachineTemplateRequest, metav1.CreateOptions) (
		*v1beta1.VirtualMachineTemplateRequest, error)
}

/* A stand-in for the driver's libcuda.so.1: one card, of which FAKE_CUDA_FREE_MIB are free at the start.

   An allocation of FAKE_CUDA_LARGEST_MIB or more fails, as where memory is in pieces.
*/
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#define OK 0
#define INVALID_VALUE 1
#define OUT_OF_MEMORY 2
#define NO_DEVICE 100
#define MOST 4096
#define MIB (1024ULL * 1024ULL)

static unsigned long long taken, sizes[MOST];

static unsigned long long mib(const char *name, unsigned long long usual) {
    const char *value = getenv(name);
    return (value ? strtoull(value, NULL, 10) : usual) * MIB;
}

int cuInit(unsigned flags) { return flags ? INVALID_VALUE : OK; }

int cuDeviceGetByPCIBusId(int *device, const char *bus_id) {
    *device = 0;
    return strcmp(bus_id, "0000:01:00.0") ? NO_DEVICE : OK;
}

int cuDevicePrimaryCtxRetain(void **context, int device) {
    *context = &taken;
    return device ? NO_DEVICE : OK;
}

int cuCtxSetCurrent(void *context) { return context == &taken ? OK : INVALID_VALUE; }

int cuMemGetInfo_v2(size_t *free, size_t *total) {
    *total = mib("FAKE_CUDA_FREE_MIB", 10240);
    *free = *total - taken;
    return OK;
}

int cuMemAlloc_v2(unsigned long long *address, size_t size) {
    if (size > mib("FAKE_CUDA_FREE_MIB", 10240) - taken || size >= mib("FAKE_CUDA_LARGEST_MIB", 10240)) return OUT_OF_MEMORY;
    for (int number = 1; number < MOST; number++)
        if (!sizes[number]) {
            sizes[number] = size;
            taken += size;
            *address = number;
            return OK;
        }
    return OUT_OF_MEMORY;
}

int cuMemFree_v2(unsigned long long address) {
    if (address >= MOST || !sizes[address]) return INVALID_VALUE;
    taken -= sizes[address];
    sizes[address] = 0;
    return OK;
}

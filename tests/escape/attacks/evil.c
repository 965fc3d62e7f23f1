// A shared library whose constructor proves that it was loaded.
#include <unistd.h>
__attribute__((constructor)) static void loaded(void) {
    if (write(1, "EFFECT library loaded\n", 22) < 0) return;
}

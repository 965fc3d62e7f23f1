// The program that must not run: says so when it does. With arguments it shows them.
#include "kit.h"
int main(int c, char **v) {
    char what[512] = "ran";
    for (int i = 1; i < c; i++) strncat(strncat(what, " ", 2), v[i], 60);
    return effect(what);
}
